// Histograms of magnitudes on a logarithmic scale: four bins an octave, so that heavy tails keep their shape.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

namespace grinqh {

// Bin edges are 2^e (1 + j/4): the top bits of a float32. The first bin also takes everything smaller, the
// last everything larger.
struct LogHistogram {
  static constexpr int kOctaves = 32;
  static constexpr int kBins = kOctaves * 4;
  static constexpr int kFirstExponent = -20;

  static int bin(float magnitude) {
    constexpr int kBase = (127 + kFirstExponent) * 4;
    return std::clamp(static_cast<int>(std::bit_cast<uint32_t>(magnitude) >> 21) - kBase, 0, kBins - 1);
  }
  // Lower edge of bin i; the upper edge of the last bin is lower_edge(kBins).
  static float lower_edge(int i) {
    if (i <= 0) return 0.0f;
    return std::bit_cast<float>(static_cast<uint32_t>((127 + kFirstExponent) * 4 + i) << 21);
  }
};

// The distribution of one channel's magnitude, from its counts [kBins]: values are taken as evenly spread
// within a bin.
class MagnitudeDistribution {
 public:
  MagnitudeDistribution() = default;  // of a channel that is always zero
  explicit MagnitudeDistribution(std::span<const float> counts);

  double share_above(double threshold) const;  // P(|x| > threshold)
  double mean_square() const { return mean_square_above(0); }
  double mean_square_above(double threshold) const;  // E[x^2 1(|x| > threshold)]

 private:
  double above_[LogHistogram::kBins + 1] = {};  // share at or above the lower edge of bin i
};

}  // namespace grinqh
