"""Compiles the kernels with NVRTC and launches them through the CUDA driver, both by ctypes: no toolkit, no headers."""

import ctypes
import glob
import os
import site
import sys

from params import Geometry, TensorMap

KERNELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "kernels")


def _nvrtc():
    """NVRTC from the wheel `nvidia-cuda-nvrtc` (builtins first), else from the system."""
    folders = [*site.getsitepackages(), *sys.path]
    for name in ("libnvrtc-builtins.so*", "libnvrtc.so*"):
        found = [f for folder in folders for f in glob.glob(os.path.join(folder, "nvidia", "*", "lib", name)) if "alt" not in f]
        library = ctypes.CDLL(found[0] if found else name.replace("*", ""), mode=ctypes.RTLD_GLOBAL) if found or "builtins" not in name else None
    return library


NVRTC = _nvrtc()


ATTENTION = ["tiles.cu", "blocks.cu", "soft_cap.cu", "attention_rows.cu"]
ROWS = ["rows.cu", "query_block.cu"]
SEARCH = ["tiles.cu", "blocks.cu", "soft_cap.cu", "search.cu"]
GROUPED = ["tiles.cu", "activations.cu", "grouped_rows.cu"]
PARTS = {
    "elementwise.cu": ["activations.cu", "elementwise.cu"],
    "grouped.cu": [*GROUPED, "grouped.cu"],
    "grouped_sm90.cu": ["prelude_sm90.cu", *GROUPED, "grouped_sm90.cu"],
    "attention.cu": [*ATTENTION, *ROWS, "attention_tiles.cu", "attention.cu"],
    "attention_sm90.cu": ["prelude_sm90.cu", *ATTENTION, "attention_sm90.cu"],
    "attention_record.cu": [*ATTENTION, *ROWS, "received.cu", "attention_record.cu"],
    "attention_recorded.cu": [*ATTENTION, *ROWS, "attention_tiles.cu", "received.cu", "attention_recorded.cu"],
    "attention_record_sm90.cu": ["prelude_sm90.cu", *ATTENTION, "attention_record_sm90.cu"],
    "written.cu": ["tiles.cu", "rows.cu", "written.cu"],
    "proximity.cu": ["blocks.cu", "proximity.cu"],
    "sample.cu": [*SEARCH, *ROWS, "score.cu", "segments.cu", "sample.cu"],
    "search_exhaustive.cu": [*SEARCH, *ROWS, "score.cu", "segments.cu", "search_exhaustive.cu"],
    "search_hierarchical.cu": [*SEARCH, *ROWS, "score.cu", "rank.cu", "search_hierarchical.cu"],
}


def source(name):
    """A kernel's whole source: no file includes another, so the loader puts the files it needs before it."""
    parts = ["prelude.cu", "warp.cu", *PARTS.get(name, [name])]
    return "\n".join(open(os.path.join(KERNELS, part)).read() for part in parts)


def options(defines, arch):
    """The compiler's options for an architecture such as `90a`."""
    fixed = [f"--gpu-architecture=sm_{arch}", "-default-device", "--std=c++17", "--ptxas-options=-v"]
    return fixed + [f"-D{key}={value}" for key, value in defines.items()]


def compile_cubin(name, defines, arch):
    """`(cubin, compiler's log)` of a kernel file for an architecture such as `90a`."""
    program = ctypes.c_void_p()
    encoded = [o.encode() for o in options(defines, arch)]
    n, encoded = len(encoded), (ctypes.c_char_p * len(encoded))(*encoded)
    NVRTC.nvrtcCreateProgram(ctypes.byref(program), source(name).encode(), name.encode(), 0, None, None)
    status = NVRTC.nvrtcCompileProgram(program, n, encoded)
    size = ctypes.c_size_t()
    NVRTC.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    NVRTC.nvrtcGetProgramLog(program, log)
    if status != 0:
        raise RuntimeError(f"{name} {defines} sm_{arch}: NVRTC error {status}\n{log.value.decode()}")
    NVRTC.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    NVRTC.nvrtcGetCUBIN(program, cubin)
    NVRTC.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw, log.value.decode()


def nvrtc_version():
    major, minor = ctypes.c_int(), ctypes.c_int()
    NVRTC.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


class Kernels:
    """Compiled kernels of the current device, by file, entry and macros."""

    def __init__(self):
        import torch

        torch.cuda.init()
        torch.zeros(1, device="cuda")  # makes the context current
        self.torch = torch
        self.driver = ctypes.CDLL("libcuda.so.1")
        major, minor = torch.cuda.get_device_capability()
        self.arch = f"{major}{minor}" + ("a" if major >= 9 else "")
        self.modules, self.functions = {}, {}

    def check(self, status, what):
        if status != 0:
            message = ctypes.c_char_p()
            self.driver.cuGetErrorString(status, ctypes.byref(message))
            raise RuntimeError(f"{what}: {message.value.decode() if message.value else status}")

    def function(self, file, entry, defines):
        """`[function, shared memory allowed, geometry]`"""
        module_key = (file, tuple(sorted(defines.items())))
        if module_key not in self.modules:
            cubin, _ = compile_cubin(file, defines, self.arch)
            module = ctypes.c_void_p()
            self.check(self.driver.cuModuleLoadData(ctypes.byref(module), cubin), f"load {file}")
            self.modules[module_key] = module
        key = (*module_key, entry)
        if key not in self.functions:
            function = ctypes.c_void_p()
            self.check(self.driver.cuModuleGetFunction(ctypes.byref(function), self.modules[module_key], entry.encode()), entry)
            self.functions[key] = [function, 0, self._geometry(self.modules[module_key], entry)]
        return self.functions[key]

    def _geometry(self, module, entry):
        """What a kernel says of its launches, a global of its module."""
        address, size, geometry = ctypes.c_uint64(), ctypes.c_size_t(), Geometry()
        name = f"{entry}_geometry".encode()
        self.check(self.driver.cuModuleGetGlobal_v2(ctypes.byref(address), ctypes.byref(size), module, name), f"geometry of {entry}")
        assert size.value == ctypes.sizeof(geometry), f"{entry}: {size.value} bytes of geometry"
        self.check(self.driver.cuMemcpyDtoH_v2(ctypes.byref(geometry), address, size), f"geometry of {entry}")
        return geometry

    def geometry(self, file, entry, defines):
        return self.function(file, entry, defines)[2]

    def launch(self, file, entry, defines, params, items, heads=1, held=0):
        """Launches on torch's current stream. `params` is the kernel's structure, `items` and `heads` are those of the grid,
        `held` what a thread block holds of run-time size, as the kernel's header says."""
        kept = self.function(file, entry, defines)
        function, allowed, geometry = kept
        shared = geometry.shared + held * geometry.shared_per_held
        if shared > max(allowed, 40 * 1024):  # of 48 kB some may be the kernel's own
            self.check(self.driver.cuFuncSetAttribute(function, 8, shared), f"{entry}: {shared} bytes of shared memory")
            kept[1] = shared
        # The driver reads as many bytes as the kernel's structure has: up to 63 more where it holds maps.
        room = ctypes.create_string_buffer(bytes(params), -(-ctypes.sizeof(params) // 64) * 64)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(room))
        grid = (-(-items // geometry.items), -(-heads // geometry.heads), 1)
        stream = ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream)
        self.check(self.driver.cuLaunchKernel(function, *grid, geometry.threads, 1, 1, shared, stream, pointers, None), entry)

    def pointer(self, x):
        """The address of a tensor, or null."""
        if x is None:
            return None
        assert x.is_contiguous() and x.is_cuda
        return x.data_ptr()

    def tensor_map(self, x, box):
        """A map of a bf16 tensor `[n_rows, n_heads, head_dim]` whose boxes hold `box` rows of 64 values of one head."""
        rows, heads, dim = x.shape
        room = ctypes.create_string_buffer(192)
        result = TensorMap.from_buffer(room, -ctypes.addressof(room) % 64)  # the driver wants 64-byte alignment
        address = ctypes.addressof(result)
        sizes = (ctypes.c_uint64 * 3)(dim, heads, rows)
        strides = (ctypes.c_uint64 * 2)(dim * 2, heads * dim * 2)
        boxes, steps = (ctypes.c_uint32 * 3)(64, 1, box), (ctypes.c_uint32 * 3)(1, 1, 1)
        # bf16 = 9, no interleave, 128-byte swizzle = 3, L2 promotion to 256 bytes = 3, zeros outside
        status = self.driver.cuTensorMapEncodeTiled(ctypes.c_void_p(address), 9, 3, ctypes.c_void_p(x.data_ptr()), sizes, strides, boxes, steps, 0, 3, 3, 0)
        self.check(status, "tensor map")
        return result
