// Finds people in images and prints one JSON line, or a table, for each.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "json.h"
#include "runner.h"

namespace {

using namespace rtmo;

constexpr const char* kHelp =
    "usage: rtmo [options] MODEL IMAGE...\n"
    "\n"
    "Prints one line of JSON for each image: its size, and its people with boxes, scores and keypoints in its pixels.\n"
    "\n"
    "  --table          print a table instead\n"
    "  --score-thr X    only people with a score above X, not below the model's own\n"
    "  --max-people N   only the N best people of each image\n"
    "  --imgsz HxW      letterbox to this size, multiples of 32; for models of dynamic size\n"
    "  --threads N      threads of ONNX Runtime\n"
    "\n"
    "Exit codes: 0 all done, 2 wrong use, 3 an image cannot be read, 4 the model cannot be used, 5 the library does\n"
    "not fit.\n";

struct Options {
    std::string model;
    std::vector<std::string> images;
    bool table = false;
    std::optional<float> score_thr;
    std::size_t most = static_cast<std::size_t>(-1);
    int height = 0;
    int width = 0;
    int threads = 0;
};

Error usage(const std::string& message) { return {Exit::usage, message + " 'rtmo --help' lists the options."}; }

int count(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const long number = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || number < 1 || number > 1000000) {
        throw usage(option + " takes a whole number from 1 on, and '" + text + "' is none.");
    }
    return static_cast<int>(number);
}

float share(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const float number = std::strtof(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(number >= 0 && number <= 1)) {
        throw usage(option + " takes a number from 0 to 1, and '" + text + "' is none.");
    }
    return number;
}

Options parse(const std::vector<std::string>& arguments) {
    Options found;
    std::vector<std::string> names;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        const auto value = [&]() -> const std::string& {
            if (i + 1 == arguments.size()) throw usage(argument + " needs a value.");
            return arguments[++i];
        };
        if (argument == "--table") {
            found.table = true;
        } else if (argument == "--score-thr") {
            found.score_thr = share(argument, value());
        } else if (argument == "--max-people") {
            found.most = static_cast<std::size_t>(count(argument, value()));
        } else if (argument == "--threads") {
            found.threads = count(argument, value());
        } else if (argument == "--imgsz") {
            const std::string& text = value();
            const std::size_t middle = text.find('x');
            found.height = count(argument, text.substr(0, middle));
            found.width = middle == std::string::npos ? found.height : count(argument, text.substr(middle + 1));
        } else if (argument.rfind("--", 0) == 0) {
            throw usage("There is no option " + argument + ".");
        } else {
            names.push_back(argument);
        }
    }
    if (names.size() < 2) throw usage("A model and one or more images are needed.");
    found.model = names.front();
    found.images.assign(names.begin() + 1, names.end());
    return found;
}

// Takes the model's size and threshold where none was given.
void complete(Options& options, const Settings& settings) {
    if (options.height == 0) {
        options.height = settings.height, options.width = settings.width;
    } else if (!settings.any_size && (options.height != settings.height || options.width != settings.width)) {
        throw usage("The model takes images of " + std::to_string(settings.height) + "x" +
                    std::to_string(settings.width) + " only.");
    }
    if (options.height % settings.multiple != 0 || options.width % settings.multiple != 0 || options.height > 16384 ||
        options.width > 16384) {
        throw usage("--imgsz takes multiples of " + std::to_string(settings.multiple) + " up to 16384.");
    }
    const float least = settings.score_thr;
    if (!options.score_thr) options.score_thr = least;
    if (*options.score_thr < least) throw usage("--score-thr is below the model's own; its graph has dropped those.");
}

std::vector<Person> people_in(const Image& image, Runner& runner, const Options& options) {
    const Settings& settings = runner.settings();
    const int width = options.width, height = options.height, batch = std::max(1, settings.batch);
    const Image canvas = letterbox(image, width, height, settings.placement, settings.pad);
    const std::size_t size = static_cast<std::size_t>(3) * width * height;
    std::vector<float> input(size * batch);
    for (int i = 0; i < batch; ++i) to_planes(canvas, input.data() + i * size);  // a fixed batch repeats the image
    const Outputs outputs = runner.run(input, batch, height, width);
    const Transform transform = transform_of(image.width, image.height, width, height, settings.placement);
    return people_of(outputs, 0, settings, width, height, transform, *options.score_thr, options.most);
}

void print_json(const std::string& path, const Image& image, const Settings& settings,
                const std::vector<Person>& people) {
    std::cout << "{\"schema_version\":1,\"skeleton\":" << quoted(settings.skeleton) << ",\"source\":" << quoted(path)
              << ",\"frame\":0,\"time_s\":null,\"width\":" << image.width << ",\"height\":" << image.height
              << ",\"people\":" << to_json(people) << "}\n";
}

void print_table(const std::string& path, const Image& image, const Settings& settings,
                 const std::vector<Person>& people) {
    std::printf("%s (%dx%d): %zu people\n", path.c_str(), image.width, image.height, people.size());
    for (std::size_t i = 0; i < people.size(); ++i) {
        const Person& person = people[i];
        std::printf("  person %zu  score %.3f  box %.1f %.1f %.1f %.1f\n", i, person.score, person.box[0],
                    person.box[1], person.box[2], person.box[3]);
        for (std::size_t k = 0; k < person.keypoints.size(); ++k) {
            const Keypoint& point = person.keypoints[k];
            std::printf("    %-16s %8.1f %8.1f  %.3f\n", settings.keypoints[k].c_str(), point.x, point.y, point.score);
        }
    }
}

int run(const std::vector<std::string>& arguments) {
    if (std::find(arguments.begin(), arguments.end(), "--help") != arguments.end()) {
        std::cout << kHelp;
        return 0;
    }
    Options options = parse(arguments);
    const std::unique_ptr<Runner> runner = open_runner(options.model, options.threads);
    complete(options, runner->settings());
    Exit ending = Exit::success;
    for (const std::string& path : options.images) {
        try {
            const Image image = read_image(path);
            const std::vector<Person> people = people_in(image, *runner, options);
            (options.table ? print_table : print_json)(path, image, runner->settings(), people);
        } catch (const Error& error) {
            if (error.code != Exit::image) throw;
            std::cerr << "Error: " << error.what() << "\n";
            ending = Exit::image;
        }
    }
    return static_cast<int>(ending);
}

}  // namespace

int main(int count, char** values) {
    try {
        return run(std::vector<std::string>(values + 1, values + count));
    } catch (const Error& error) {
        std::cerr << "Error: " << error.what() << "\n";
        return static_cast<int>(error.code);
    } catch (const std::exception& error) {
        std::cerr << "Error: " << error.what() << "\n";
        return static_cast<int>(Exit::failed);
    }
}
