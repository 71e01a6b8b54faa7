// Loops over f32 values on the CPU, compiled for several instruction sets; the program picks one.
#pragma once

#include <cstdint>

namespace tandem {

// Which elements dropout keeps: a function of the seed and the element's index alone.
struct Mask {
  uint64_t seed;
  float probability; // of zeroing
};

// out = residual + mask · x / (1 − p), elements begin..end; residual may be null.
void dropout(
    float* out, const float* x, const float* residual, Mask mask, int64_t begin, int64_t end);

// weights = softmax(scale · scores + bias), dropped = mask · weights / (1 − p), rows of `columns`.
// `offset` is the index of the first element; without dropout `dropped` is null.
void softmax(
    float* weights, float* dropped, const float* scores, const float* bias, float scale, Mask mask,
    int64_t offset, int64_t columns);

// The gradient of `scores`, from that of what `softmax` gave last.
void softmax_backward(
    float* grad_scores, const float* grad, const float* weights, float scale, Mask mask,
    int64_t offset, int64_t columns);

// A row of logits, as cross-entropy and decoding see it.
struct Row {
  float log_sum_exp;
  float sum;
  float highest;
};

Row summarise(const float* logits, int64_t columns);

// logits = exp(logits − log_sum_exp) − uniform
void softmax_gradient(float* logits, float log_sum_exp, float uniform, int64_t columns);

} // namespace tandem
