#include "letterbox.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace rtmo {
namespace {

// Fractions of a pixel have 5 bits, positions within a row 10, weights of a warp 15 and of a resize 11.
constexpr int kFractionBits = 5, kFractions = 1 << kFractionBits;
constexpr int kPositionBits = 10;
constexpr int kWarpBits = 15, kResizeOne = 1 << 11;

struct Affine {
    std::array<double, 6> m;  // x' = m0 x + m1 y + m2, y' = m3 x + m4 y + m5
};

int rounded(double value) {
    constexpr double least = std::numeric_limits<int>::min(), most = std::numeric_limits<int>::max();
    return static_cast<int>(std::nearbyint(std::clamp(value, least, most)));  // halves to even
}

// Solves a 6x6 system by elimination with partial pivoting, in the order of operations that OpenCV has.
std::array<double, 6> solved(std::array<std::array<double, 6>, 6> a, std::array<double, 6> b) {
    for (int i = 0; i < 6; ++i) {
        int pivot = i;
        for (int j = i + 1; j < 6; ++j) {
            if (std::abs(a[j][i]) > std::abs(a[pivot][i])) pivot = j;
        }
        std::swap(a[i], a[pivot]);
        std::swap(b[i], b[pivot]);
        const double inverse = -1 / a[i][i];
        for (int j = i + 1; j < 6; ++j) {
            const double factor = a[j][i] * inverse;
            for (int k = i + 1; k < 6; ++k) a[j][k] += factor * a[i][k];
            b[j] += factor * b[i];
        }
    }
    for (int i = 5; i >= 0; --i) {
        for (int k = i + 1; k < 6; ++k) b[i] -= a[i][k] * b[k];
        b[i] /= a[i][i];
    }
    return b;
}

// Original to input. The reference fits it to three points of single precision, whose rounding moves some samples.
Affine center_matrix(int columns, int rows, int width, int height) {
    const double fitting = std::min<double>(width, height * (static_cast<double>(columns) / rows));
    const float fitted = static_cast<float>(static_cast<double>(columns) * width / fitting);
    const float x = static_cast<float>(columns / 2.0), y = static_cast<float>(rows / 2.0);
    const float above = static_cast<float>(static_cast<double>(y) - fitted / 2), reach = y - above;
    const float left = static_cast<float>(static_cast<double>(x) - reach);
    const float middle = static_cast<float>(width / 2.0), top = static_cast<float>(height / 2.0 - width / 2.0);
    const float from[3][2] = {{x, y}, {x, above}, {left, above}};
    const float to[3][2] = {{middle, static_cast<float>(height / 2.0)}, {middle, top}, {0, top}};
    std::array<std::array<double, 6>, 6> a{};
    std::array<double, 6> b{};
    for (int i = 0; i < 3; ++i) {
        a[2 * i] = {from[i][0], from[i][1], 1, 0, 0, 0};
        a[2 * i + 1] = {0, 0, 0, from[i][0], from[i][1], 1};
        b[2 * i] = to[i][0];
        b[2 * i + 1] = to[i][1];
    }
    return {solved(a, b)};
}

Affine inverted(const Affine& affine) {
    const auto& m = affine.m;
    const double determinant = m[0] * m[4] - m[1] * m[3];
    const double d = determinant != 0 ? 1 / determinant : 0;
    const double a11 = m[4] * d, a22 = m[0] * d, a12 = m[1] * -d, a21 = m[3] * -d;
    return {{a11, a12, -a11 * m[2] - a12 * m[5], a21, a22, -a21 * m[2] - a22 * m[5]}};
}

void warp(const Image& image, Image& canvas, const Affine& to_input, std::uint8_t pad) {
    const auto m = inverted(to_input).m;
    constexpr int one = 1 << kPositionBits, half_step = one / kFractions / 2;
    std::vector<int> across_x(canvas.width), across_y(canvas.width);
    for (int x = 0; x < canvas.width; ++x) {
        across_x[x] = rounded(m[0] * x * one);
        across_y[x] = rounded(m[3] * x * one);
    }
    const std::uint8_t border[3] = {pad, pad, pad};
    const auto pixel = [&](int x, int y) {
        const bool inside = x >= 0 && y >= 0 && x < image.width && y < image.height;
        return inside ? image.row(y) + 3 * x : border;
    };
    for (int y = 0; y < canvas.height; ++y) {
        const std::int64_t start_x = rounded((m[1] * y + m[2]) * one) + std::int64_t{half_step};
        const std::int64_t start_y = rounded((m[4] * y + m[5]) * one) + std::int64_t{half_step};
        std::uint8_t* out = canvas.row(y);
        for (int x = 0; x < canvas.width; ++x, out += 3) {
            const std::int64_t at_x = (start_x + across_x[x]) >> (kPositionBits - kFractionBits);
            const std::int64_t at_y = (start_y + across_y[x]) >> (kPositionBits - kFractionBits);
            const int column = static_cast<int>(std::clamp<std::int64_t>(at_x >> kFractionBits, -32768, 32767));
            const int line = static_cast<int>(std::clamp<std::int64_t>(at_y >> kFractionBits, -32768, 32767));
            const int right = static_cast<int>(at_x & (kFractions - 1)), low = static_cast<int>(at_y & (kFractions - 1));
            const int unit = 1 << (kWarpBits - 2 * kFractionBits);
            const int weights[4] = {(kFractions - right) * (kFractions - low) * unit, right * (kFractions - low) * unit,
                                    (kFractions - right) * low * unit, right * low * unit};
            const std::uint8_t* around[4] = {pixel(column, line), pixel(column + 1, line), pixel(column, line + 1),
                                             pixel(column + 1, line + 1)};
            for (int c = 0; c < 3; ++c) {
                int sum = 1 << (kWarpBits - 1);
                for (int i = 0; i < 4; ++i) sum += weights[i] * around[i][c];
                out[c] = static_cast<std::uint8_t>(sum >> kWarpBits);
            }
        }
    }
}

// Where a row or column of a resized image is sampled: an index and the weights of it and of the next.
struct Tap {
    int index;
    int weights[2];
};

std::vector<Tap> taps(int from, int to, bool clamped) {
    const double scale = 1 / (static_cast<double>(to) / from);
    std::vector<Tap> found(to);
    for (int i = 0; i < to; ++i) {
        float at = static_cast<float>((i + 0.5) * scale - 0.5);
        int index = static_cast<int>(std::floor(at));
        at -= static_cast<float>(index);
        if (clamped && index < 0) index = 0, at = 0;
        if (clamped && index >= from - 1) index = from - 1, at = 0;
        found[i] = {index, {rounded((1.0f - at) * kResizeOne), rounded(at * kResizeOne)}};
    }
    return found;
}

// Into the canvas' top left corner.
void resize(const Image& image, Image& canvas, int width, int height) {
    if (width == image.width && height == image.height) {
        for (int y = 0; y < height; ++y) std::copy_n(image.row(y), 3 * width, canvas.row(y));
        return;
    }
    if (width * 2 == image.width && height * 2 == image.height) {  // OpenCV averages here
        for (int y = 0; y < height; ++y) {
            const std::uint8_t *above = image.row(2 * y), *below = image.row(2 * y + 1);
            std::uint8_t* out = canvas.row(y);
            for (int i = 0; i < 3 * width; ++i) {
                const int at = i / 3 * 6 + i % 3;
                out[i] = static_cast<std::uint8_t>((above[at] + above[at + 3] + below[at] + below[at + 3] + 2) >> 2);
            }
        }
        return;
    }
    const std::vector<Tap> columns = taps(image.width, width, true), lines = taps(image.height, height, false);
    std::vector<int> blended[2] = {std::vector<int>(3 * width), std::vector<int>(3 * width)};
    int held[2] = {-1, -1};
    for (int y = 0; y < height; ++y) {
        for (int k = 0; k < 2; ++k) {
            const int line = std::clamp(lines[y].index + k, 0, image.height - 1);
            if (held[k] == line) continue;
            held[k] = line;
            const std::uint8_t* row = image.row(line);
            for (int x = 0; x < width; ++x) {
                const Tap& tap = columns[x];
                const int next = std::min(tap.index + 1, image.width - 1);
                for (int c = 0; c < 3; ++c) {
                    blended[k][3 * x + c] = row[3 * tap.index + c] * tap.weights[0] + row[3 * next + c] * tap.weights[1];
                }
            }
        }
        std::uint8_t* out = canvas.row(y);
        const int first = lines[y].weights[0], second = lines[y].weights[1];
        for (int i = 0; i < 3 * width; ++i) {
            const int sum = ((first * (blended[0][i] >> 4)) >> 16) + ((second * (blended[1][i] >> 4)) >> 16);
            out[i] = static_cast<std::uint8_t>(std::clamp((sum + 2) >> 2, 0, 255));
        }
    }
}

}  // namespace

Transform transform_of(int columns, int rows, int width, int height, Placement placement) {
    const double scale = std::min(static_cast<double>(height) / rows, static_cast<double>(width) / columns);
    if (placement == Placement::top_left) return {scale, 0, 0};
    return {scale, (width - scale * columns) / 2, (height - scale * rows) / 2};
}

Image letterbox(const Image& image, int width, int height, Placement placement, std::uint8_t pad) {
    if (std::max(image.width, image.height) > kLongestSide) {
        throw Error(Exit::image, "The image has " + std::to_string(image.width) + "x" + std::to_string(image.height) +
                                     " pixels; sides up to " + std::to_string(kLongestSide) + " are taken.");
    }
    Image canvas{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width) * height * 3, pad)};
    if (placement == Placement::center) {
        warp(image, canvas, center_matrix(image.width, image.height, width, height), pad);
        return canvas;
    }
    const double scale = transform_of(image.width, image.height, width, height, placement).scale;
    resize(image, canvas, std::max(1, static_cast<int>(image.width * scale)),
           std::max(1, static_cast<int>(image.height * scale)));
    return canvas;
}

void to_planes(const Image& canvas, float* planes) {
    const std::size_t pixels = static_cast<std::size_t>(canvas.width) * canvas.height;
    for (std::size_t i = 0; i < pixels; ++i) {
        for (std::size_t c = 0; c < 3; ++c) planes[c * pixels + i] = canvas.bgr[3 * i + c];
    }
}

}  // namespace rtmo
