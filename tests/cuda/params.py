"""The kernels' parameters: structures with the names and fields of those in kernels/*.cu. compile.py compares them."""

import ctypes
from ctypes import c_float, c_int, c_uint64
from ctypes import c_void_p as pointer


class TensorMap(ctypes.Structure):
    """A CUtensorMap: 128 bytes. Structures that hold some start with them, as they must lie at multiples of 64."""

    _fields_ = [("opaque", c_uint64 * 16)]


def structure(name, *fields):
    """A structure; `fields` are pairs of names, separated by blanks, and their type. Other names are refused."""
    listed = [(field, kind) for names, kind in fields for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": listed, "__slots__": ()})


Mask = structure("Mask", ("kept budgets", pointer), ("n_query_blocks first_query_block", c_int))
Rows = structure("Rows", ("first_block n_rows", c_int))
Sizes = structure("Sizes", ("n_tokens n_kv_heads window", c_int))
Hidden = structure("Hidden", ("edges", pointer), ("n_hidden", c_int))
Focus = structure("Focus", ("rows", pointer), ("first end", c_int))
Anchors = structure("Anchors", ("limit weight received", pointer))
Rule = structure("Rule", ("sink_blocks local_blocks", c_int))
Nodes = structure("Nodes", ("means variances spreads", pointer), ("n_nodes", c_int))


def attention_params(tensor):
    return structure("AttentionParams", ("queries keys values", tensor), ("mask", Mask), ("out lse sinks", pointer), ("rows", Rows),
                     ("sizes", Sizes))


def record_params(tensor):
    return structure("RecordParams", ("queries keys", tensor), ("mask", Mask), ("lse mass received shares", pointer), ("focus", Focus),
                     ("anchors", Anchors), ("rows", Rows), ("sizes", Sizes))


AttentionParams, AttentionMapParams = attention_params(pointer), attention_params(TensorMap)
RecordParams, RecordMapParams = record_params(pointer), record_params(TensorMap)
AttentionWithoutParams = structure("AttentionWithoutParams", ("attention", AttentionParams), ("hidden", Hidden))
Parts = structure("Parts", ("outs lses", pointer), ("n_parts", c_int))
AttentionPartsParams = structure("AttentionPartsParams", ("attention", AttentionParams), ("parts", Parts), ("place", pointer))
AttentionRecordedParams = structure("AttentionRecordedParams", ("attention", AttentionParams), ("record", RecordParams), ("found", pointer))
SearchParams = structure("SearchParams", ("queries keys", pointer), ("nodes", Nodes), ("mask", Mask), ("n_read found", pointer), ("sizes", Sizes),
                         ("rule", Rule), ("first_block beam down max_frontier", c_int))
ExhaustiveParams = structure("ExhaustiveParams", ("queries keys norms scores place", pointer), ("mask", Mask), ("sizes", Sizes), ("rule", Rule),
                             ("n_segments first_block", c_int))
SampleParams = structure("SampleParams", ("queries keys sample norms masses", pointer), ("sizes", Sizes), ("n_segments", c_int))
HistogramParams = structure("HistogramParams", ("masses sample counts sums", pointer), ("sizes", Sizes), ("rule", Rule))
SampleRecallParams = structure("SampleRecallParams", ("masses sample recall", pointer), ("mask", Mask), ("sizes", Sizes))
PyramidParams = structure("PyramidParams", ("keys means variances spans", pointer), ("n_tokens n_kv_heads n_spans n_nodes", c_int))
ClusterParams = structure("ClusterParams", ("keys means spreads sums", pointer), ("n_tokens n_kv_heads n_nodes below n_children", c_int))
ProximityParams = structure("ProximityParams", ("shares", pointer), ("mask", Mask), ("values weight before after out stays", pointer),
                            ("rows", Rows), ("sizes", Sizes), ("hidden", c_int))
GramParams = structure("GramParams", ("weight gram", pointer), ("hidden", c_int))
WrittenParams = structure("WrittenParams", ("values gram out", pointer), ("n_tokens n_kv_heads", c_int))
WrittenOfBlocksParams = structure("WrittenOfBlocksParams", ("lengths received means", pointer), ("n_tokens block_size", c_int))
SentenceParams = structure("SentenceParams", ("spans limit weight", pointer), ("n_sentences distance", c_int))
VerticalParams = structure("VerticalParams", ("anchors spans out", pointer), ("n_tokens n_sentences distance", c_int))
RecallParams = structure("RecallParams", ("lse_kept lse_dense sinks recall", pointer), ("n_rows", c_int))
OnSinkParams = structure("OnSinkParams", ("lse sinks mass", pointer), ("n_rows block_size first_block n_query_blocks", c_int))
DequantizeParams = structure("DequantizeParams", ("blocks out", pointer), ("n_vectors", c_uint64), ("width head_dim", c_int),
                             ("factor offset", c_float))
PairParams = structure("PairParams", ("x y out", pointer), ("n_vectors", c_uint64))
BiasParams = structure("BiasParams", ("x bias", pointer), ("n_vectors", c_uint64), ("width", c_int))
AppendParams = structure("AppendParams", ("keys values to_keys to_values first_row", pointer), ("n_vectors", c_uint64), ("row width", c_int))
FiniteParams = structure("FiniteParams", ("x found", pointer), ("n_vectors", c_uint64))
ClampedParams = structure("ClampedParams", ("x y out", pointer), ("n_vectors", c_uint64), ("limit", c_float))
RouteParams = structure("RouteParams", ("logits bias correction chosen weights places counts", pointer),
                        ("n_rows n_experts top_k sigmoid normalised n_groups top_groups", c_int), ("scale", c_float))
ListParams = structure("ListParams", ("chosen weights places counts rows of_rows", pointer), ("n top_k", c_int))
GatherParams = structure("GatherParams", ("x rows out", pointer), ("width", c_int))
ScatterParams = structure("ScatterParams", ("sum part rows weights", pointer), ("width", c_int))
SumParams = structure("SumParams", ("part places weights out", pointer), ("width top_k", c_int))
GroupedParams = structure("GroupedParams", ("x rows counts weights biases out", pointer), ("n_experts n_in n_out", c_int), ("limit", c_float))
SigmoidParams = structure("SigmoidParams", ("y x gate", pointer), ("width inner", c_int))
RmsNormParams = structure("RmsNormParams", ("x weight out", pointer), ("n_rows hidden", c_int), ("eps", c_float))
LengthsParams = structure("LengthsParams", ("x length", pointer), ("n_rows hidden", c_int))
RopeParams = structure("RopeParams", ("x norm_weight frequency starts out", pointer), ("n_heads n_rotated first_position stretch", c_int),
                       ("eps turn scale", c_float))


class Geometry(ctypes.Structure):
    """How a kernel is launched, as prelude.cu explains: read from the kernel's module."""

    _fields_ = [(name, c_int) for name in ("threads", "items", "heads", "shared", "shared_per_held")]


def fields_of(kind):
    return [name for name, _ in kind._fields_]
