use approx::assert_abs_diff_eq;

use super::{HostDevice, HostImages};
use crate::backend::{
    At, Blend, ImageBuffer, ImageOps, ImageShape, Noisy, Push, Stitch, TileGrid, View, Viewpoint,
};
use crate::random::RandomKey;

struct Host;
impl HostDevice for Host {
    type Number = f64;
}

const SHAPE: ImageShape = ImageShape {
    channels: 2,
    height: 5,
    width: 7,
};

fn image(f: impl Fn(usize, usize, usize) -> f64) -> HostImages<f64> {
    let mut images = HostImages::zeroed(SHAPE, 1).unwrap();
    let mut pixels = images.image_mut(0).iter_mut();
    for c in 0..SHAPE.channels {
        for y in 0..SHAPE.height {
            for x in 0..SHAPE.width {
                *pixels.next().unwrap() = f(c, y, x);
            }
        }
    }
    images
}

fn grid(tile_height: usize, tile_width: usize) -> TileGrid {
    TileGrid::new(SHAPE.height, SHAPE.width, tile_height, tile_width)
}

#[test]
fn tiles_extend_by_reflection_and_come_back_cropped() {
    let input = image(|c, y, x| (100 * c + 10 * y + x) as f64);
    let sizes = [
        (4, 4, 0, 0),
        (5, 7, 0, 0),
        (1, 1, 0, 0),
        (8, 16, 0, 0),
        (3, 2, 0, 0),
    ];
    let shifted = [(4, 4, 3, 1), (5, 7, 4, 6), (8, 16, 7, 15), (3, 2, 1, 1)];
    for (height, width, top, left) in sizes.into_iter().chain(shifted) {
        let grid = TileGrid {
            top,
            left,
            ..grid(height, width)
        };
        let area: usize = (0..grid.tiles()).map(|tile| grid.area(tile)).sum();
        assert_eq!(area, SHAPE.height * SHAPE.width);
        let shape = ImageShape {
            channels: 2,
            height,
            width,
        };
        let mut tiles = Host.allocate(shape, grid.tiles() + 1).unwrap();
        Host.tile(At::new(&input, 0), grid, &mut tiles, 1).unwrap();
        let mut output = Host.allocate(SHAPE, 2).unwrap();
        Host.untile(&tiles, 1, grid, &mut output, 1).unwrap();
        assert_eq!(output.image(1), input.image(0), "{grid:?}");
    }
    let mut tiles = Host
        .allocate(
            ImageShape {
                channels: 2,
                height: 4,
                width: 4,
            },
            4,
        )
        .unwrap();
    Host.tile(At::new(&input, 0), grid(4, 4), &mut tiles, 0)
        .unwrap();
    // Row 4 is the last; rows 5, 6, 7 reflect to 3, 2, 1. Column 7 reflects to 5.
    let last: Vec<f64> = tiles.image(3)[..16].to_vec();
    let row = |y: f64| [4.0, 5.0, 6.0, 5.0].map(|x| 10.0 * y + x);
    assert_eq!(last, [row(4.0), row(3.0), row(2.0), row(1.0)].concat());
    // Ahead of the image, row 1 comes before row 0.
    let ahead = TileGrid {
        top: 1,
        left: 2,
        ..grid(4, 4)
    };
    let mut tiles = Host.allocate(tiles.shape(), ahead.tiles()).unwrap();
    Host.tile(At::new(&input, 0), ahead, &mut tiles, 0).unwrap();
    assert_eq!(
        tiles.image(0)[..8],
        [12.0, 11.0, 10.0, 11.0, 2.0, 1.0, 0.0, 1.0]
    );
}

#[test]
fn views_are_moved_reflected_at_the_edges_and_mirrored() {
    let input = image(|c, y, x| (100 * c + 10 * y + x) as f64);
    let mirrored = image(|c, y, x| (100 * c + 10 * y + SHAPE.width - 1 - x) as f64);
    let mut out = Host.allocate(SHAPE, 3).unwrap();
    let jobs = [&input, &mirrored].map(|buffer| View::mirror(At::new(buffer, 0)));
    Host.view(&jobs, &mut out, 1).unwrap();
    assert_eq!(out.image(0), [0.0; 70]);
    assert_eq!(out.image(1), mirrored.image(0));
    assert_eq!(out.image(2), input.image(0));

    // Five rows and seven columns: one row up, two columns to the right.
    let moved = |mirrored| View {
        image: At::new(&input, 0),
        from: Viewpoint {
            mirrored,
            down: -1,
            right: 2,
        },
    };
    let jobs = [moved(false), moved(true)];
    Host.view(&jobs, &mut out, 0).unwrap();
    let (columns, rows) = ([2, 3, 4, 5, 6, 5, 4], [1, 0, 1, 2, 3]);
    let want = image(|c, y, x| (100 * c + 10 * rows[y] + columns[x]) as f64);
    assert_eq!(out.image(0), want.image(0));
    let want = image(|c, y, x| (100 * c + 10 * rows[y] + columns[6 - x]) as f64);
    assert_eq!(out.image(1), want.image(0));

    let beyond = Viewpoint {
        down: SHAPE.height as i32,
        ..Viewpoint::default()
    };
    let job = View {
        image: At::new(&input, 0),
        from: beyond,
    };
    assert!(Host.view(&[job], &mut out, 0).is_err());
}

#[test]
fn noise_has_its_standard_deviation_and_depends_on_its_key_alone() {
    let shape = ImageShape {
        channels: 3,
        height: 40,
        width: 41,
    };
    let mut input = Host.allocate(shape, 1).unwrap();
    Host.upload(&vec![0.5; shape.elements()], &mut input, 0)
        .unwrap();
    let mut out = Host.allocate(shape, 3).unwrap();
    let noisy = |tile, std| Noisy {
        image: At::new(&input, 0),
        std,
        key: RandomKey {
            tile,
            ..RandomKey::default()
        },
    };
    let jobs = [noisy(1, 0.25), noisy(1, 0.25), noisy(2, 0.0)];
    Host.add_noise(&jobs, &mut out, 0).unwrap();
    assert_eq!(out.image(0), out.image(1));
    assert_eq!(out.image(2), input.image(0));
    let n = shape.elements() as f64;
    let squares = out.image(0).iter().map(|x| (x - 0.5).powi(2));
    let std = (squares.sum::<f64>() / n).sqrt();
    // Five standard errors of a standard deviation: 1 / sqrt(2n) of it each. Values beyond [0, 1] stay.
    assert_abs_diff_eq!(std, 0.25, epsilon = 5.0 * 0.25 / (2.0 * n).sqrt());
    assert!(out.image(0).iter().any(|x| *x < 0.0));
}

#[test]
fn blend_push_and_error_follow_their_formulas() {
    let input = image(|_, y, _| 0.1 * y as f64);
    let other = image(|_, y, x| 0.1 * y as f64 + 0.125 * x as f64);
    let mut out = Host.allocate(SHAPE, 2).unwrap();
    let (from, to) = (At::new(&input, 0), At::new(&other, 0));
    Host.blend(
        &[Blend { from, to, t: 0.0 }, Blend { from, to, t: 0.5 }],
        &mut out,
        0,
    )
    .unwrap();
    assert_eq!(out.image(0), input.image(0));
    for (i, &x) in out.image(1).iter().enumerate() {
        let want = 0.1 * ((i / 7) % 5) as f64 + 0.0625 * (i % 7) as f64;
        assert_abs_diff_eq!(x, want, epsilon = 1e-12);
    }
    Host.push(
        &[Push {
            boundary: to,
            input: from,
            beta: 2.0,
        }],
        &mut out,
        0,
    )
    .unwrap();
    for (i, &x) in out.image(0).iter().enumerate() {
        let want = 0.1 * ((i / 7) % 5) as f64 + 0.375 * (i % 7) as f64;
        assert_abs_diff_eq!(x, want.min(1.0), epsilon = 1e-12);
    }
    let errors = Host
        .squared_error(&[(from, to), (to, to)], grid(5, 4))
        .unwrap();
    let column = |x: usize| (0.125 * x as f64).powi(2) * 10.0;
    let want = [
        (0..4).map(column).sum::<f64>(),
        (4..7).map(column).sum(),
        0.0,
        0.0,
    ];
    for (got, want) in errors.iter().zip(want) {
        assert_abs_diff_eq!(*got, want, epsilon = 1e-9);
    }
}

#[test]
fn stitch_windows_sum_to_one_and_each_cell_rules_its_center() {
    let ones = image(|_, _, _| 1.0);
    let zeros = image(|_, _, _| 0.0);
    let images = vec![At::new(&ones, 0), At::new(&zeros, 0), At::new(&ones, 0)];
    let mut out = Host.allocate(SHAPE, 1).unwrap();
    for cells in [grid(2, 3), grid(5, 7), grid(1, 1), grid(4, 4)] {
        let even = Stitch {
            images: images.clone(),
            cells,
            weights: [0.25, 0.25, 0.5].repeat(cells.tiles()),
        };
        Host.stitch(&even, &mut out, 0).unwrap();
        assert!(
            out.image(0).iter().all(|x| (x - 0.75).abs() < 1e-12),
            "{cells:?}"
        );
    }
    // Cells 3 wide: the center of the first is pixel 1, of the second pixel 4.
    let cells = grid(5, 3);
    let mut weights = vec![0.0; 9];
    weights[0] = 1.0;
    weights[4] = 1.0;
    weights[8] = 1.0;
    Host.stitch(
        &Stitch {
            images,
            cells,
            weights,
        },
        &mut out,
        0,
    )
    .unwrap();
    let row: Vec<f64> = out.image(0)[..7].to_vec();
    assert!((row[0] - 1.0).abs() < 1e-12 && (row[1] - 1.0).abs() < 1e-12);
    assert!(row[4].abs() < 1e-12);
    assert!((row[2] - 0.75).abs() < 1e-12 && (row[3] - 0.25).abs() < 1e-12);
}

#[test]
fn wrong_shapes_and_ranges_are_errors() {
    let input = image(|_, _, _| 0.0);
    let mut small = Host
        .allocate(
            ImageShape {
                channels: 1,
                ..SHAPE
            },
            1,
        )
        .unwrap();
    assert!(Host.copy(&[At::new(&input, 0)], &mut small, 0).is_err());
    let mut out = Host.allocate(SHAPE, 1).unwrap();
    assert!(Host.copy(&[At::new(&input, 0)], &mut out, 1).is_err());
    let mirror = View::mirror(At::new(&input, 0));
    assert!(Host.view(&[mirror], &mut small, 0).is_err());
    assert!(Host.view(&[mirror], &mut out, 1).is_err());
    assert!(Host.upload(&[0.0; 3], &mut out, 0).is_err());
    assert!(Host.untile(&input, 0, grid(5, 7), &mut out, 1).is_err());
    let huge = ImageShape {
        channels: 3,
        height: usize::MAX / 2,
        width: 8,
    };
    assert!(HostImages::<f32>::zeroed(huge, 1).is_err());
}
