// Images as rows of blue, green and red bytes, and the errors of this program.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace rtmo {

// What a program ends with; the same numbers as the exit codes of rtmo-deploy.
enum class Exit { success = 0, failed = 1, usage = 2, image = 3, model = 4, setup = 5 };

struct Error : std::runtime_error {
    Error(Exit code, const std::string& message) : std::runtime_error(message), code(code) {}
    Exit code;
};

struct Image {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> bgr;  // height * width * 3

    const std::uint8_t* row(int y) const { return bgr.data() + static_cast<std::size_t>(y) * width * 3; }
    std::uint8_t* row(int y) { return bgr.data() + static_cast<std::size_t>(y) * width * 3; }
};

// Reads a binary PPM (P6, 8 bits a channel), or with OpenCV what cv::imread reads. Throws Error (image).
Image read_image(const std::string& path);

}  // namespace rtmo
