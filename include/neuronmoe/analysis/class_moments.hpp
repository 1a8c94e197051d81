#pragma once
// Sums and squared deviations of one neuron's responses by class of samples: mean response and standardized
// separation of any language follow from them in a few steps. The scorers of CPU and GPU use it.
#include <cstdint>
#include <span>
#include <vector>

namespace nmoe::analysis {

struct SampleRoles;
enum class Role : std::uint8_t;

/// Holds scratch memory: one instance per thread. Sums run over the samples of a class in their order, in
/// float64 and eight lanes, then class by class.
class ClassMoments {
 public:
  /// @param roles kept by reference; must outlive this
  explicit ClassMoments(const SampleRoles& roles);
  /// Takes the responses of one neuron.   @param responses [S]
  void measure(std::span<const float> responses);

  /// Returns the sum over a class.
  double sum(int sample_class) const { return sums_[static_cast<std::size_t>(sample_class)]; }
  /// Returns d = (mean_on − mean_off) / sqrt((var_on + var_off) / 2) of a language's positive and negative
  /// samples, with population variances (METHOD 1.7a). 0/0 = 0, x/0 = ±∞; 0 if there are no samples of
  /// either kind, or an infinite response.
  double separation(int language) const;

 private:
  struct Moments {
    double mean = 0.0, variance = 0.0, count = 0.0;
  };
  Moments of(int language, Role role) const;

  const SampleRoles& roles_;
  std::vector<std::uint32_t> by_class_, class_begin_;  // [S], [C + 1]: samples of class 0, of class 1, ...
  bool contiguous_ = false;                            // by_class_[i] == i
  std::vector<float> gathered_;                        // [S] otherwise: responses class by class
  std::vector<double> sums_, squares_;                 // [C]; squares: Σ (x − mean of the class)²
};

/// Returns d from means and variances; see ClassMoments::separation.
double standardized_separation(double mean_on, double variance_on, double mean_off, double variance_off);

}  // namespace nmoe::analysis
