// Adam (Kingma and Ba, 1412.6980) in float64 over one flat vector of parameters.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace grinqh {

struct AdamOptions {
  double rate = 1e-3;
  double weight_decay = 0;  // L2: added to the gradient
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
};

// Its members are all of its state: copied away and back they continue as if nothing had happened.
struct Adam {
  std::vector<double> mean, square;
  int64_t steps = 0;

  void step(const AdamOptions& options, std::span<const double> gradient, std::span<double> parameters) {
    mean.resize(parameters.size());
    square.resize(parameters.size());
    ++steps;
    const double mean_bias = 1 - std::pow(options.beta1, static_cast<double>(steps));
    const double square_bias = 1 - std::pow(options.beta2, static_cast<double>(steps));
    for (size_t i = 0; i < parameters.size(); ++i) {
      const double g = gradient[i] + options.weight_decay * parameters[i];
      mean[i] += (1 - options.beta1) * (g - mean[i]);
      square[i] += (1 - options.beta2) * (g * g - square[i]);
      parameters[i] -=
          options.rate * (mean[i] / mean_bias) / (std::sqrt(square[i] / square_bias) + options.epsilon);
    }
  }
};

}  // namespace grinqh
