//! Flow by whole matrices, and the edges of routes.

use streamtrace::{
    CausalConfig, Error, Span, Trace,
    analysis::{RouteConfig, RouteMeasure},
};

use crate::{trace, tracer};

const NODE: usize = 4;

/// `[n_nodes][n_nodes]`: the share of the column's state in the row's next one.
type Matrix = Vec<Vec<f64>>;

/// The amount that each edge of a layer adds to the matrix, by head, query block and key block, and the
/// amount that stays.
type Parts = (Vec<((usize, usize, usize), Matrix)>, Matrix);

fn parts(trace: &Trace, layer: usize, measure: RouteMeasure) -> Parts {
    let (mask, mass) = (trace.mask(layer).unwrap(), trace.masses(layer).unwrap());
    let n = trace.n_tokens().div_ceil(NODE);
    let zero = || vec![vec![0.0; n]; n];
    let (mut edges, mut stays) = (Vec::new(), zero());
    for q in 0..mask.blocks.n_query_blocks() {
        let rows = 2 * q..(2 * q + 2).min(n);
        let mut row = Vec::new();
        for head in 0..mask.n_heads() {
            let written = trace.written(layer, head).unwrap();
            for (slot, &block) in mask.kept(head, q).iter().enumerate() {
                let at = mask.row(head, q).start + slot;
                let weight = match measure {
                    RouteMeasure::Written => mass[at] * written[block as usize],
                    RouteMeasure::Proximity => trace.proximity(layer).unwrap()[at],
                    RouteMeasure::Rollout => mass[at],
                };
                row.push((head, block as usize, f64::from(weight)));
            }
        }
        let residual = match measure {
            RouteMeasure::Written => trace.residual(layer).unwrap()[q].into(),
            RouteMeasure::Proximity => 1.0 - row.iter().map(|edge| edge.2).sum::<f64>(),
            RouteMeasure::Rollout => mask.n_heads() as f64,
        };
        let sum = residual + row.iter().map(|edge| edge.2).sum::<f64>();
        for r in rows.clone() {
            stays[r][r] = residual / sum;
        }
        for (head, block, weight) in row {
            let mut matrix = zero();
            rows.clone().filter(|&r| r >= block).for_each(|r| matrix[r][block] = weight / sum);
            edges.push(((head, q, block), matrix));
        }
    }
    (edges, stays)
}

fn times(matrix: &Matrix, state: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| row.iter().zip(state).map(|(a, b)| a * b).sum()).collect()
}

fn transposed(matrix: &Matrix) -> Matrix {
    (0..matrix.len()).map(|column| matrix.iter().map(|row| row[column]).collect()).collect()
}

fn whole((edges, stays): &Parts) -> Matrix {
    let add = |mut sum: Matrix, (_, m): &((usize, usize, usize), Matrix)| {
        sum.iter_mut().zip(m).for_each(|(row, other)| row.iter_mut().zip(other).for_each(|(a, b)| *a += b));
        sum
    };
    edges.iter().fold(stays.clone(), add)
}

#[test]
fn flow_is_the_product_of_the_layers_mixes() {
    let trace = trace(&tracer(), 10, 6);
    let n = trace.n_tokens().div_ceil(NODE);
    for measure in [RouteMeasure::Written, RouteMeasure::Proximity, RouteMeasure::Rollout] {
        let (from, to) = (Span { start: 8, end: 12 }, trace.output());
        let layers: Vec<_> = (0..3).map(|layer| parts(&trace, layer, measure)).collect();
        let (mut reached, mut reaching) = (vec![vec![0.0; n]], vec![vec![0.0; n]]);
        reached[0][2] = 1.0;
        reaching[0][n - 1] = 1.0;
        for layer in 0..3 {
            reached.push(times(&whole(&layers[layer]), &reached[layer]));
            reaching.push(times(&transposed(&whole(&layers[2 - layer])), &reaching[layer]));
        }
        reaching.reverse();
        let routes = trace.routes_with(from, to, RouteConfig { measure, n_edges: 1_000_000 }).unwrap();
        assert!((routes.total - reached[3][n - 1]).abs() < 1e-6, "{} {}", routes.total, reached[3][n - 1]);
        assert!((reaching[0][2] - routes.total).abs() < 1e-6);
        assert!(routes.edges.len() == routes.n_edges && routes.hidden < 1e-9, "{}", routes.hidden);
        let mut found = 0;
        for (layer, (edges, _)) in layers.iter().enumerate() {
            for ((head, q, block), matrix) in edges {
                let through = times(matrix, &reached[layer]);
                let flow: f64 =
                    through.iter().zip(&reaching[layer + 1]).map(|(a, b)| a * b).sum::<f64>() / routes.total;
                let place = |e: &&streamtrace::analysis::RouteEdge| {
                    (e.layer, e.head, e.queries.start, e.keys.start) == (layer, *head, 8 * q, 4 * block)
                };
                let edge = routes.edges.iter().find(place);
                assert!(
                    (edge.map_or(0.0, |e| e.flow) - flow).abs() < 1e-6,
                    "{layer} {head} {q} {block}: {flow}"
                );
                found += usize::from(flow > 0.0);
            }
        }
        assert_eq!(found, routes.n_edges);
    }
}

#[test]
fn the_strongest_edges_are_shown_and_the_rest_is_said() {
    let trace = trace(&tracer(), 12, 6);
    let all = trace
        .routes_with(4..9, trace.output(), RouteConfig { n_edges: 1_000_000, ..RouteConfig::default() })
        .unwrap();
    let few = trace
        .routes_with(4..9, trace.output(), RouteConfig { n_edges: 7, ..RouteConfig::default() })
        .unwrap();
    assert_eq!(few.edges, all.edges[..7]);
    let [shown, everything] = [&few, &all].map(|routes| routes.edges.iter().map(|e| e.flow).sum::<f64>());
    assert!((few.hidden - (1.0 - shown / everything)).abs() < 1e-9);
    assert!(few.by_layer.iter().all(|share| (0.0..=1.0 + 1e-9).contains(share)), "{:?}", few.by_layer);
    assert_eq!(few.to_text.trim(), ".");
}

#[test]
fn controls_are_as_many_edges_of_the_same_layers_and_reproducible() {
    let trace = trace(&tracer(), 12, 6);
    let routes = trace
        .routes_with(4..9, trace.output(), RouteConfig { n_edges: 5, ..RouteConfig::default() })
        .unwrap();
    let controls = routes.controls(&trace, 8, 1).unwrap();
    assert_eq!((controls.len(), &controls), (8, &routes.controls(&trace, 8, 1).unwrap()));
    assert_ne!(controls, routes.controls(&trace, 8, 2).unwrap());
    let layers = |i: &streamtrace::Intervention| {
        let mut places: Vec<_> = i.hide.iter().map(|e| (e.layer, e.queries.start)).collect();
        places.sort();
        places
    };
    let route = routes.intervention();
    assert!(controls.iter().all(|control| layers(control) == layers(&route)));
    assert!(controls.iter().all(|control| control.hide.iter().all(|edges| !route.hide.contains(edges))));
}

#[test]
fn the_route_alone_keeps_sinks_last_blocks_and_itself() {
    let trace = trace(&tracer(), 12, 6);
    let n = trace.n_tokens();
    let routes = trace
        .routes_with(4..9, trace.output(), RouteConfig { n_edges: 3, ..RouteConfig::default() })
        .unwrap();
    let alone = routes.alone(&trace, n - 1..n);
    let hidden = alone.in_layer(0).of(0, Span { start: n - 1, end: n });
    let shown = routes.edges.iter().filter(|e| (e.layer, e.head) == (0, 0) && e.queries.end == n);
    let kept: Vec<usize> = shown.flat_map(|e| e.keys.range()).collect();
    for key in 0..n {
        let local = (n.div_ceil(4) - 3) * 4;
        assert_eq!(hidden.hides(n - 1, key), !(key < 4 || key >= local || kept.contains(&key)), "{key}");
    }
    assert!(!alone.in_layer(0).of(0, Span { start: 0, end: 8 }).hides(7, 0));
}

#[test]
fn ways_that_lead_nowhere_are_errors() {
    let trace = trace(&tracer(), 6, 6);
    let n = trace.n_tokens();
    let backwards = trace.routes(n - 2..n - 1, 0..4).unwrap_err();
    assert!(
        matches!(&backwards, Error::Setting { fix, .. } if fix.contains("exchange the two")),
        "{backwards}"
    );
    for (from, to) in [(3..3, 5..6), (0..1, 5..n + 1)] {
        let error = trace.routes(from, to).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
    }
    let nearest = trace.find("w1 w9 nowhere").unwrap_err().to_string();
    assert!(nearest.contains("nearest is \"w1"), "{nearest}");
}

#[test]
fn what_was_not_recorded_says_how_to_record_it() {
    let (text, n_tokens) = crate::text(8);
    let config = streamtrace::StreamConfig { proximity: false, ..crate::config(6, n_tokens) };
    let trace = tracer().with(config).trace(&text).unwrap();
    let error = trace.routes_with(4..9, trace.output(), RouteMeasure::Proximity).unwrap_err().to_string();
    assert!(error.contains("trace again with StreamConfig::proximity"), "{error}");
}

#[test]
fn heads_add_up_to_their_layer_and_routes_share_edges_with_themselves() {
    let trace = trace(&tracer(), 12, 6);
    let [written, rollout] = [RouteMeasure::Written, RouteMeasure::Rollout]
        .map(|measure| trace.routes_with(4..9, trace.output(), measure).unwrap());
    for (layer, heads) in written.by_layer.iter().zip(&written.by_head) {
        assert!((heads.iter().sum::<f64>() - layer).abs() < 1e-9 && heads.len() == trace.n_heads());
    }
    let n = written.n_shared(&rollout);
    assert_eq!((written.n_shared(&written), rollout.n_shared(&written)), (written.edges.len(), n));
}

#[test]
fn a_route_is_tested_against_random_ones() {
    let tracer = tracer();
    let trace = trace(&tracer, 12, 6);
    let n = trace.n_tokens();
    let config = RouteConfig { n_edges: 5, ..RouteConfig::default() };
    let routes = trace.routes_with(4..9, n - 4..n - 1, config).unwrap();
    let test = tracer
        .test_routes_with(
            &trace,
            &routes,
            &CausalConfig { answer: Some(Span::from(n - 3..n)), n_random: 6, seed: 1 },
        )
        .unwrap();
    let alone = tracer.knock_out(&trace, &[routes.intervention()], Span::from(n - 3..n)).unwrap();
    assert!((test.effect() - alone[0].drop()).abs() < 1e-6);
    assert_eq!((test.controls.len(), test.claimed[0].0.as_str()), (6, "route"));
    assert!(test.measure.contains("the answer"), "{}", test.measure);
}
