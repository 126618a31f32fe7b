#include "image.h"

#include <algorithm>
#include <cctype>
#include <fstream>

#ifdef RTMO_WITH_OPENCV
#include <opencv2/imgcodecs.hpp>
#endif

namespace rtmo {
namespace {

constexpr std::uint64_t kMostPixels = std::uint64_t{1} << 28;

Error damaged(const std::string& path, const std::string& why) { return {Exit::image, path + ": " + why}; }

// The next number of a PPM's header; comments run from # to the end of the line.
std::uint64_t header_number(std::istream& file, const std::string& path) {
    int next = file.get();
    while (next == '#' || std::isspace(next)) {
        if (next == '#') {
            while (next != '\n' && next != EOF) next = file.get();
        }
        next = file.get();
    }
    std::uint64_t number = 0;
    int digits = 0;
    for (; next >= '0' && next <= '9'; next = file.get()) {
        if (++digits > 9) throw damaged(path, "A number of its header is too large.");
        number = number * 10 + static_cast<std::uint64_t>(next - '0');
    }
    if (digits == 0 || !std::isspace(next)) throw damaged(path, "Its PPM header is damaged.");
    return number;
}

Image read_ppm(std::istream& file, const std::string& path) {
    const std::uint64_t width = header_number(file, path), height = header_number(file, path);
    const std::uint64_t greatest = header_number(file, path);
    if (width == 0 || height == 0 || width > kMostPixels || height > kMostPixels || width * height > kMostPixels) {
        throw damaged(path, "It has " + std::to_string(width) + "x" + std::to_string(height) +
                                " pixels; 1 to 268435456 are read.");
    }
    if (greatest != 255) throw damaged(path, "Only PPM files of 8 bits a channel (maximum 255) are read.");
    const std::uint64_t size = width * height * 3;
    const auto start = file.tellg();
    file.seekg(0, std::ios::end);
    const auto end = file.tellg();
    if (start < 0 || end < start || static_cast<std::uint64_t>(end - start) < size) {
        throw damaged(path, "It is cut off: its header says " + std::to_string(size) + " bytes of pixels.");
    }
    file.seekg(start);
    Image image{static_cast<int>(width), static_cast<int>(height), std::vector<std::uint8_t>(size)};
    if (!file.read(reinterpret_cast<char*>(image.bgr.data()), static_cast<std::streamsize>(size))) {
        throw damaged(path, "It cannot be read to its end.");
    }
    for (std::size_t i = 0; i < size; i += 3) std::swap(image.bgr[i], image.bgr[i + 2]);
    return image;
}

}  // namespace

Image read_image(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    char magic[2] = {};
    if (!file || !file.read(magic, 2)) throw damaged(path, "There is no such image, or it cannot be read.");
    if (magic[0] == 'P' && magic[1] == '6') return read_ppm(file, path);
#ifdef RTMO_WITH_OPENCV
    const cv::Mat read = cv::imread(path, cv::IMREAD_COLOR);
    if (read.empty()) throw damaged(path, "It is damaged, or no image that OpenCV reads.");
    Image image{read.cols, read.rows, std::vector<std::uint8_t>(read.total() * 3)};
    for (int y = 0; y < read.rows; ++y) std::copy_n(read.ptr<std::uint8_t>(y), read.cols * 3, image.row(y));
    return image;
#else
    throw damaged(path,
                  "It is no binary PPM (P6), which is all that this build reads. Convert it, for example with "
                  "'convert IMAGE IMAGE.ppm', or build with -DRTMO_OPENCV=ON.");
#endif
}

}  // namespace rtmo
