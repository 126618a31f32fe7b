// One image into the network's input, and coordinates back out.
#pragma once

#include <cstdint>
#include <vector>

#include "image.h"

namespace rtmo {

enum class Placement { center, top_left };

// How original pixels and network-input pixels correspond: input = scale * original + offset.
struct Transform {
    double scale;
    double offset_x;
    double offset_y;

    float original_x(float x) const { return static_cast<float>((x - offset_x) / scale); }
    float original_y(float y) const { return static_cast<float>((y - offset_y) / scale); }
};

// The longest side of an image that is taken, as in cv::warpAffine.
constexpr int kLongestSide = 32766;

Transform transform_of(int columns, int rows, int width, int height, Placement placement);

// Scales an image into width x height pixels with its aspect kept, and pads it with a grey level. Bilinear, in the fixed
// point of OpenCV 4: equal to cv::warpAffine (center) and cv::resize (top_left) in every bit. Throws Error (image).
Image letterbox(const Image& image, int width, int height, Placement placement, std::uint8_t pad);

// Letterboxed pixels as 3 planes of floats (blue, green, red), 0 to 255.
void to_planes(const Image& canvas, float* planes);

}  // namespace rtmo
