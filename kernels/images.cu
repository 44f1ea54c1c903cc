// Moving, cutting and joining images. An image is CHW in float32; what each kernel computes is
// ImageOps (src/backend/mod.rs).
#include "random.cuh"

// Images that travel in one launch's arguments.
constexpr unsigned JOBS = 128;

DEVICE float clip(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }

struct ImageCopyArgs {
    Buffer<const float> from[JOBS];
    Buffer<float> out;
    uint32_t elements;
};
ARGUMENTS(ImageCopyArgs, from, out, elements)

// Image blockIdx.y.
KERNEL(image_copy, ImageCopyArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const Global<const float> from = args.from[blockIdx.y];
    const Global<float> out = args.out + size_t(blockIdx.y) * args.elements;
    out[i] = from[i];
}

struct ImageViewArgs {
    Buffer<const float> from[JOBS];
    int32_t down[JOBS];
    int32_t right[JOBS];
    uint32_t mirrored[JOBS];
    Buffer<float> out;
    uint32_t elements;
    uint32_t height;
    uint32_t width;
};
ARGUMENTS(ImageViewArgs, from, down, right, mirrored, out, elements, height, width)

// A coordinate less than n beyond either end of an axis of n pixels, reflected there.
DEVICE uint32_t reflect_once(int32_t at, uint32_t n) {
    const uint32_t i = at < 0 ? -at : at;
    return i < n ? i : 2 * n - 2 - i;
}

// View blockIdx.y, a thread to an element; see Viewpoint::shows.
KERNEL(image_view, ImageViewArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const uint32_t job = blockIdx.y;
    const uint32_t line = i / args.width;
    const uint32_t column = i % args.width;
    const uint32_t row = line % args.height;
    const int32_t x = args.mirrored[job] != 0 ? args.width - 1 - column : column;
    const uint32_t from_row = reflect_once(int32_t(row) + args.down[job], args.height);
    const uint32_t from_column = reflect_once(x + args.right[job], args.width);
    const Global<const float> from = args.from[job];
    const Global<float> out = args.out + size_t(job) * args.elements;
    out[i] = from[(line - row + from_row) * args.width + from_column];
}

struct ImageNoiseArgs {
    Buffer<const float> from[JOBS];
    float deviation[JOBS];
    uint32_t keys[JOBS][3]; // Philox's key, and the tile
    Buffer<float> out;
    uint32_t elements;
};
ARGUMENTS(ImageNoiseArgs, from, deviation, keys, out, elements)

// Image blockIdx.y, a thread to an element; see Noisy. Four threads draw the same four numbers, since a vote's noise
// takes no time worth an order of its own.
KERNEL(image_noise, ImageNoiseArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const uint32_t job = blockIdx.y;
    const Words counter = {i / 4, VOTE_NOISE << 28, args.keys[job][2], 0};
    const Words words = philox(counter, args.keys[job][0], args.keys[job][1]);
    const bool second = i % 4 >= 2;
    float even, odd;
    box_muller(second ? words.c : words.a, second ? words.d : words.b, even, odd);
    const Global<const float> from = args.from[job];
    const Global<float> out = args.out + size_t(job) * args.elements;
    out[i] = from[i] + args.deviation[job] * (i % 2 == 0 ? even : odd);
}

// Pairs of images, each with an amount to join them by.
struct ImagePairArgs {
    Buffer<const float> first[JOBS];
    Buffer<const float> second[JOBS];
    float amount[JOBS];
    Buffer<float> out;
    uint32_t elements;
};
ARGUMENTS(ImagePairArgs, first, second, amount, out, elements)

// Pair blockIdx.y, a thread to an element.
template <typename Join> DEVICE void join_pair(const ImagePairArgs& args, Join join) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const Global<const float> first = args.first[blockIdx.y];
    const Global<const float> second = args.second[blockIdx.y];
    const Global<float> out = args.out + size_t(blockIdx.y) * args.elements;
    out[i] = clip(join(first[i], second[i], args.amount[blockIdx.y]));
}

// Points of the lines through two images; see Blend.
KERNEL(image_blend, ImagePairArgs, 256) {
    join_pair(args, [](float from, float to, float t) { return (1.0f - t) * from + t * to; });
}

// Steps from an on-boundary image away from the input; see Push.
KERNEL(image_push, ImagePairArgs, 256) {
    join_pair(args, [](float on, float input, float beta) { return on + beta * (on - input); });
}

// Where tiles lie on an image; see TileGrid.
struct Grid {
    uint32_t height, width;
    uint32_t tile_height, tile_width;
    uint32_t top, left;
    uint32_t columns;
};
ARGUMENTS(Grid, height, width, tile_height, tile_width, top, left, columns)

// Where reflection puts the coordinate `at - before` on an axis of n pixels.
DEVICE uint32_t reflect(uint32_t at, uint32_t before, uint32_t n) {
    if (n == 1) {
        return 0;
    }
    const uint32_t i = (at < before ? before - at : at - before) % (2 * n - 2);
    return i < n ? i : 2 * n - 2 - i;
}

struct ImageTileArgs {
    Buffer<const float> image;
    Buffer<float> tiles;
    Grid grid;
    uint32_t tile_elements;
    uint32_t blocks_per_tile;
};
ARGUMENTS(ImageTileArgs, image, tiles, grid, tile_elements, blocks_per_tile)

// Tiles go over blockIdx.x, which has no small limit.
KERNEL(image_tile, ImageTileArgs, 256) {
    const Grid& grid = args.grid;
    const uint32_t tile = blockIdx.x / args.blocks_per_tile;
    const uint32_t i = blockIdx.x % args.blocks_per_tile * blockDim.x + threadIdx.x;
    if (i >= args.tile_elements) {
        return;
    }
    const uint32_t x = i % grid.tile_width;
    const uint32_t y = i / grid.tile_width % grid.tile_height;
    const uint32_t channel = i / grid.tile_width / grid.tile_height;
    const uint32_t from_x = reflect(tile % grid.columns * grid.tile_width + x, grid.left, grid.width);
    const uint32_t from_y = reflect(tile / grid.columns * grid.tile_height + y, grid.top, grid.height);
    const Global<const float> image = args.image;
    const Global<float> out = args.tiles + size_t(tile) * args.tile_elements;
    out[i] = image[(channel * grid.height + from_y) * grid.width + from_x];
}

struct ImageUntileArgs {
    Buffer<const float> tiles;
    Buffer<float> image;
    Grid grid;
    uint32_t tile_elements;
    uint32_t elements;
};
ARGUMENTS(ImageUntileArgs, tiles, image, grid, tile_elements, elements)

KERNEL(image_untile, ImageUntileArgs, 256) {
    const Grid& grid = args.grid;
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const uint32_t x = i % grid.width + grid.left;
    const uint32_t y = i / grid.width % grid.height + grid.top;
    const uint32_t channel = i / grid.width / grid.height;
    const uint32_t tile = y / grid.tile_height * grid.columns + x / grid.tile_width;
    const uint32_t row = channel * grid.tile_height + y % grid.tile_height;
    const Global<const float> from = args.tiles + size_t(tile) * args.tile_elements;
    const Global<float> image = args.image;
    image[i] = from[row * grid.tile_width + x % grid.tile_width];
}

// The lower of the two cells whose windows are not zero at a pixel, and the window of that cell there.
struct Window {
    double weight;
    uint32_t cell;
    uint32_t unused;
};
ARGUMENTS(Window, weight, cell, unused)

struct ImageStitchArgs {
    Buffer<const Buffer<const float>> images;
    Buffer<const float> weights; // cells x images
    Buffer<const Window> down;   // for every row
    Buffer<const Window> right;  // for every column
    Buffer<float> out;
    uint32_t count;
    uint32_t rows, columns; // of cells
    uint32_t height, width;
    uint32_t elements;
};
ARGUMENTS(ImageStitchArgs, images, weights, down, right, out, count, rows, columns, height, width, elements)

// In double precision, as the host's: once per picture, and its time is the images' reading.
KERNEL(image_stitch, ImageStitchArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.elements) {
        return;
    }
    const Window down = args.down[i / args.width % args.height];
    const Window right = args.right[i % args.width];
    const uint32_t row = down.cell, below = min(row + 1, args.rows - 1);
    const uint32_t column = right.cell, beside = min(column + 1, args.columns - 1);
    const double a = down.weight, b = right.weight;
    const Global<const Buffer<const float>> images = args.images;
    const Global<const float> weights = args.weights;
    double sum = 0.0;
    for (uint32_t r = 0; r < args.count; ++r) {
        const double upper = b * weights[(row * args.columns + column) * args.count + r] +
                             (1.0 - b) * weights[(row * args.columns + beside) * args.count + r];
        const double lower = b * weights[(below * args.columns + column) * args.count + r] +
                             (1.0 - b) * weights[(below * args.columns + beside) * args.count + r];
        const Global<const float> image = images[r];
        sum += (a * upper + (1.0 - a) * lower) * image[i];
    }
    const Global<float> out = args.out;
    out[i] = float(sum);
}

struct ImageSquaredErrorArgs {
    Buffer<const float> first[JOBS];
    Buffer<const float> second[JOBS];
    Buffer<double> out; // pairs x cells
    Grid cells;
    uint32_t channels;
};
ARGUMENTS(ImageSquaredErrorArgs, first, second, out, cells, channels)

// Cell blockIdx.x of pair blockIdx.y, a block to a sum.
KERNEL(image_squared_error, ImageSquaredErrorArgs, 256) {
    const Grid& cells = args.cells;
    const Global<const float> first = args.first[blockIdx.y];
    const Global<const float> second = args.second[blockIdx.y];
    const uint32_t down = blockIdx.x / cells.columns * cells.tile_height;
    const uint32_t right = blockIdx.x % cells.columns * cells.tile_width;
    const uint32_t y0 = down < cells.top ? 0 : down - cells.top;
    const uint32_t x0 = right < cells.left ? 0 : right - cells.left;
    const uint32_t height = min(down + cells.tile_height - cells.top, cells.height) - y0;
    const uint32_t width = min(right + cells.tile_width - cells.left, cells.width) - x0;
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < args.channels * height * width; i += blockDim.x) {
        const uint32_t row = i / width / height * cells.height + y0 + i / width % height;
        const uint32_t at = row * cells.width + x0 + i % width;
        const double difference = double(first[at]) - double(second[at]);
        sum = multiply_add(difference, difference, sum);
    }
    SharedMemory memory;
    sum = block_sum(sum, memory.take<double>(blockDim.x / WARP));
    if (threadIdx.x == 0) {
        const Global<double> out = args.out;
        out[size_t(blockIdx.y) * gridDim.x + blockIdx.x] = sum;
    }
}

// SSIM's window has so many taps at most on either axis; a block has so many places on either axis, a
// thread to each.
constexpr unsigned WINDOW = 11, PLACES = 16;
// Pixels on either axis that a block's places need.
constexpr unsigned REACH = PLACES + WINDOW - 1;

struct ImageSsimArgs {
    Buffer<const float> first[JOBS];
    Buffer<const float> second[JOBS];
    Buffer<double> out; // pairs x blocks
    double window[WINDOW];
    double c1, c2;
    uint32_t taps;
    uint32_t height, width; // of a picture
    uint32_t rows, columns; // of a channel's blocks
};
ARGUMENTS(ImageSsimArgs, first, second, out, window, c1, c2, taps, height, width, rows, columns)

// The sum of the similarities at the places of block blockIdx.x of pair blockIdx.y. In double precision,
// for variances are what little is left of squares; once per picture.
KERNEL(image_ssim, ImageSsimArgs, 256) {
    const uint32_t left = blockIdx.x % args.columns * PLACES;
    const uint32_t top = blockIdx.x / args.columns % args.rows * PLACES;
    const uint32_t channel = blockIdx.x / args.columns / args.rows;
    // Of the picture that the block reads, and of its places.
    const uint32_t around = args.taps - 1;
    const uint32_t height = min(PLACES + around, args.height - top);
    const uint32_t width = min(PLACES + around, args.width - left);
    const uint32_t high = height - around, wide = width - around;
    SharedMemory memory;
    const Shared<float> p = memory.take<float>(REACH * REACH);
    const Shared<float> q = memory.take<float>(REACH * REACH);
    const Shared<double> rows = memory.take<double>(5 * REACH * PLACES);
    const Shared<double> partial = memory.take<double>(blockDim.x / WARP);

    const Global<const float> first = args.first[blockIdx.y];
    const Global<const float> second = args.second[blockIdx.y];
    for (uint32_t i = threadIdx.x; i < height * width; i += blockDim.x) {
        const size_t row = size_t(channel) * args.height + top + i / width;
        const size_t at = row * args.width + left + i % width;
        p[i] = first[at];
        q[i] = second[at];
    }
    barrier();
    // Means of p, q, p * p, q * q and p * q: along rows, then along columns.
    for (uint32_t i = threadIdx.x; i < height * wide; i += blockDim.x) {
        const uint32_t at = i / wide * width + i % wide;
        double means[5] = {};
        for (uint32_t tap = 0; tap < args.taps; ++tap) {
            const double weight = args.window[tap];
            const double a = double(float(p[at + tap])), b = double(float(q[at + tap]));
            const double weighted_a = weight * a, weighted_b = weight * b;
            means[0] = multiply_add(weight, a, means[0]);
            means[1] = multiply_add(weight, b, means[1]);
            means[2] = multiply_add(weighted_a, a, means[2]);
            means[3] = multiply_add(weighted_b, b, means[3]);
            means[4] = multiply_add(weighted_a, b, means[4]);
        }
        UNROLL
        for (int k = 0; k < 5; ++k) {
            rows[k * REACH * PLACES + i] = means[k];
        }
    }
    barrier();
    double similarity = 0.0;
    if (threadIdx.x < high * wide) {
        double means[5] = {};
        for (uint32_t tap = 0; tap < args.taps; ++tap) {
            const double weight = args.window[tap];
            UNROLL
            for (int k = 0; k < 5; ++k) {
                means[k] = multiply_add(weight, rows[k * REACH * PLACES + tap * wide + threadIdx.x], means[k]);
            }
        }
        const double a = means[0], b = means[1];
        const double variances = (means[2] - a * a) + (means[3] - b * b);
        const double covariance = means[4] - a * b;
        similarity = (2.0 * a * b + args.c1) * (2.0 * covariance + args.c2) /
                     ((a * a + b * b + args.c1) * (variances + args.c2));
    }
    similarity = block_sum(similarity, partial);
    if (threadIdx.x == 0) {
        const Global<double> out = args.out;
        out[size_t(blockIdx.y) * gridDim.x + blockIdx.x] = similarity;
    }
}
