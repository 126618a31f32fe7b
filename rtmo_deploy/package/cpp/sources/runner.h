// A model that is loaded. ort_runner.cpp and trt_runner.cpp each hold one; a program has one of them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "people.h"

namespace rtmo {

struct Runner {
    virtual ~Runner() = default;
    virtual const Settings& settings() const = 0;
    // Runs `batch` images, (batch, 3, height, width) floats. Throws Error (model) where the model fails on them.
    virtual Outputs run(const std::vector<float>& images, int batch, int height, int width) = 0;
};

// Loads a model; `threads` of 0 leaves the number to the runtime. Throws Error (model or setup).
std::unique_ptr<Runner> open_runner(const std::string& model, int threads);

}  // namespace rtmo
