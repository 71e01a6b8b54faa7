#include "loops.h"

#include <bit>
#include <cmath>
#include <limits>

// The compiler turns the loops into vector code; one clone for each instruction set.
#if defined(__x86_64__)
#define TANDEM_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TANDEM_CLONES
#endif
#define TANDEM_INLINE inline __attribute__((always_inline))

namespace tandem {
namespace {

// exp to about one unit in the last place, without branches; 0 below -87.
TANDEM_INLINE float exponential(float x) {
  const float log2e = 1.44269504088896341f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  const float rounder = 12582912.0f; // 1.5 · 2^23: adding it rounds to an integer
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float shifted = clamped * log2e + rounder;
  const float n = shifted - rounder;
  const float r = (clamped - n * ln2_high) - n * ln2_low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) << 23; // the low bits hold n
  const float power = std::bit_cast<float>(exponent + std::bit_cast<int32_t>(1.0f));
  return x < -87.0f ? 0.0f : p * power;
}

// 32 random bits of an element: Wellons' "lowbias32" over index and seed.
TANDEM_INLINE uint32_t random_bits(uint32_t index, uint32_t low, uint32_t high) {
  uint32_t x = index ^ low;
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= (x >> 15) ^ high;
  x *= 0x846ca68bU;
  x ^= x >> 16;
  return x;
}

// A mask as constants of a loop.
struct Keep {
  explicit Keep(Mask mask)
      : low(static_cast<uint32_t>(mask.seed)), high(static_cast<uint32_t>(mask.seed >> 32)),
        // 31 bits: signed comparisons are what vector units have.
        threshold(static_cast<int32_t>(mask.probability * 2147483648.0)),
        scale(1.0f / (1.0f - mask.probability)) {}
  TANDEM_INLINE float factor(int64_t index) const {
    const auto bits = static_cast<int32_t>(random_bits(static_cast<uint32_t>(index), low, high) >> 1);
    return bits >= threshold ? scale : 0.0f;
  }
  uint32_t low, high;
  int32_t threshold;
  float scale;
};

} // namespace

TANDEM_CLONES void dropout(
    float* __restrict out, const float* __restrict x, const float* __restrict residual, Mask mask,
    int64_t begin, int64_t end) {
  const Keep keep(mask);
  if (residual == nullptr) {
    for (int64_t i = begin; i < end; ++i) out[i] = x[i] * keep.factor(i);
  } else {
    for (int64_t i = begin; i < end; ++i) out[i] = x[i] * keep.factor(i) + residual[i];
  }
}

TANDEM_CLONES void softmax(
    float* __restrict weights, float* __restrict dropped, const float* __restrict scores,
    const float* __restrict bias, float scale, Mask mask, int64_t offset, int64_t columns) {
  float highest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : highest)
  for (int64_t i = 0; i < columns; ++i) {
    const float score = scores[i] * scale + bias[i];
    weights[i] = score;
    highest = score > highest ? score : highest;
  }
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < columns; ++i) {
    const float value = exponential(weights[i] - highest);
    weights[i] = value;
    sum += value;
  }
  const float inverse = 1.0f / sum;
  if (dropped == nullptr) {
    for (int64_t i = 0; i < columns; ++i) weights[i] *= inverse;
    return;
  }
  const Keep keep(mask);
  for (int64_t i = 0; i < columns; ++i) {
    const float weight = weights[i] * inverse;
    weights[i] = weight;
    dropped[i] = weight * keep.factor(offset + i);
  }
}

TANDEM_CLONES void softmax_backward(
    float* __restrict grad_scores, const float* __restrict grad, const float* __restrict weights,
    float scale, Mask mask, int64_t offset, int64_t columns) {
  const Keep keep(mask);
  float inner = 0;
#pragma omp simd reduction(+ : inner)
  for (int64_t i = 0; i < columns; ++i) {
    const float value = grad[i] * keep.factor(offset + i);
    grad_scores[i] = value;
    inner += value * weights[i];
  }
  for (int64_t i = 0; i < columns; ++i) {
    grad_scores[i] = (grad_scores[i] - inner) * weights[i] * scale;
  }
}

TANDEM_CLONES Row summarise(const float* __restrict logits, int64_t columns) {
  float highest = -std::numeric_limits<float>::infinity();
  float total = 0;
#pragma omp simd reduction(max : highest) reduction(+ : total)
  for (int64_t i = 0; i < columns; ++i) {
    highest = logits[i] > highest ? logits[i] : highest;
    total += logits[i];
  }
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < columns; ++i) sum += exponential(logits[i] - highest);
  return {highest + std::log(sum), total, highest};
}

TANDEM_CLONES void softmax_gradient(
    float* __restrict logits, float log_sum_exp, float uniform, int64_t columns) {
  for (int64_t i = 0; i < columns; ++i) {
    logits[i] = exponential(logits[i] - log_sum_exp) - uniform;
  }
}

} // namespace tandem
