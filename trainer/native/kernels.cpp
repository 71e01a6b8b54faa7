// Dropout, attention weights and cross-entropy on the CPU, in f32: each one pass over memory.

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "loops.h"
#include "shim.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr int64_t GRAIN = 1 << 15; // elements that are worth a thread

tandem::Mask mask_of(AutogradContext* ctx) {
  const auto seed = static_cast<uint64_t>(ctx->saved_data["seed"].toInt());
  return {seed, static_cast<float>(ctx->saved_data["probability"].toDouble())};
}

void save(AutogradContext* ctx, tandem::Mask mask) {
  ctx->saved_data["seed"] = static_cast<int64_t>(mask.seed);
  ctx->saved_data["probability"] = static_cast<double>(mask.probability);
}

using Residual = std::optional<at::Tensor>;

at::Tensor dropped(const at::Tensor& x, const Residual& residual, tandem::Mask mask) {
  auto out = at::empty_like(x);
  auto* to = out.mutable_data_ptr<float>();
  const auto* from = x.const_data_ptr<float>();
  const auto* added = residual ? residual->const_data_ptr<float>() : nullptr;
  at::parallel_for(0, x.numel(), GRAIN, [&](int64_t begin, int64_t end) {
    tandem::dropout(to, from, added, mask, begin, end);
  });
  return out;
}

// The mask is not kept: backward makes it again.
struct Dropout : Function<Dropout> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& x, const Residual& residual, tandem::Mask mask) {
    save(ctx, mask);
    ctx->saved_data["residual"] = residual.has_value();
    const auto added = residual ? Residual(residual->contiguous()) : std::nullopt;
    return dropped(x.contiguous(), added, mask);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto grad = grads[0].contiguous();
    const bool residual = ctx->saved_data["residual"].toBool();
    return {dropped(grad, std::nullopt, mask_of(ctx)), residual ? grad : at::Tensor(), {}};
  }
};

// Calls `row(index)` for all rows of `columns` elements, in parallel.
template <class Row>
void for_rows(int64_t rows, int64_t columns, Row row) {
  const auto grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, columns));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) row(index);
  });
}

struct AttentionWeights : Function<AttentionWeights> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& scores, const at::Tensor& bias, double scale,
      tandem::Mask mask) {
    const auto from = scores.contiguous();
    const auto batch = from.size(0), heads = from.size(1), length = from.size(2);
    const auto columns = from.size(3);
    const auto added = bias.expand({batch, 1, length, columns});
    TORCH_CHECK(columns <= 1 || added.stride(3) == 1, "the mask's rows must be contiguous");
    const bool drops = mask.probability > 0;
    auto weights = at::empty_like(from);
    auto out = drops ? at::empty_like(from) : weights;
    const auto* score = from.const_data_ptr<float>();
    const auto* extra = added.const_data_ptr<float>();
    auto* weight = weights.mutable_data_ptr<float>();
    auto* drop = drops ? out.mutable_data_ptr<float>() : nullptr;
    const auto of_sentence = added.stride(0), of_query = added.stride(2);
    for_rows(batch * heads * length, columns, [&](int64_t row) {
      const auto offset = row * columns;
      const auto* own = extra + row / (heads * length) * of_sentence + row % length * of_query;
      tandem::softmax(
          weight + offset, drops ? drop + offset : nullptr, score + offset, own,
          static_cast<float>(scale), mask, offset, columns);
    });
    save(ctx, mask);
    ctx->saved_data["scale"] = scale;
    ctx->save_for_backward({weights});
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto grad = grads[0].contiguous();
    const auto weights = ctx->get_saved_variables()[0];
    const auto mask = mask_of(ctx);
    const auto scale = static_cast<float>(ctx->saved_data["scale"].toDouble());
    auto result = at::empty_like(grad);
    auto* to = result.mutable_data_ptr<float>();
    const auto* from = grad.const_data_ptr<float>();
    const auto* weight = weights.const_data_ptr<float>();
    const auto columns = grad.size(3);
    for_rows(columns > 0 ? grad.numel() / columns : 0, columns, [&](int64_t row) {
      const auto offset = row * columns;
      tandem::softmax_backward(
          to + offset, from + offset, weight + offset, scale, mask, offset, columns);
    });
    return {result, {}, {}, {}};
  }
};

} // namespace

extern "C" {

char* tandem_dropout(
    at::Tensor** out, at::Tensor* x, at::Tensor* residual, double probability, uint64_t seed) {
  return guarded([&] {
    const tandem::Mask mask{seed, static_cast<float>(probability)};
    *out = new at::Tensor(Dropout::apply(*x, residual ? Residual(*residual) : std::nullopt, mask));
  });
}

char* tandem_attention_weights(
    at::Tensor** out, at::Tensor* scores, at::Tensor* bias, double scale, double probability,
    uint64_t seed) {
  return guarded([&] {
    const tandem::Mask mask{seed, static_cast<float>(probability)};
    *out = new at::Tensor(AttentionWeights::apply(*scores, *bias, scale, mask));
  });
}

// Rows of logits [C, V] turned into the gradient of their smoothed cross-entropy, if wanted;
// `sums` is a [C, 2] tensor of each row's smoothed loss and negative log-likelihood.
char* tandem_cross_entropy(
    at::Tensor* logits, at::Tensor* labels, at::Tensor* sums, double smoothing, bool gradient) {
  return guarded([&] {
    TORCH_CHECK(logits->is_contiguous(), "logits must be contiguous");
    const auto columns = logits->size(1);
    auto* values = logits->mutable_data_ptr<float>();
    auto* results = sums->mutable_data_ptr<float>();
    const auto* label = labels->const_data_ptr<int64_t>();
    const auto uniform = static_cast<float>(smoothing / static_cast<double>(columns));
    const auto rest = static_cast<float>(1.0 - smoothing);
    for_rows(logits->size(0), columns, [&](int64_t index) {
      auto* row = values + index * columns;
      const auto own = label[index];
      TORCH_CHECK_INDEX(own >= 0 && own < columns, "label ", own, " of ", columns, " words");
      const auto summary = tandem::summarise(row, columns);
      const auto nll = summary.log_sum_exp - row[own];
      const auto all = static_cast<float>(columns) * summary.log_sum_exp - summary.sum;
      results[2 * index] = rest * nll + uniform * all;
      results[2 * index + 1] = nll;
      if (gradient) {
        tandem::softmax_gradient(row, summary.log_sum_exp, uniform, columns);
        row[own] -= rest;
      }
    });
  });
}

// The most probable word of each row of logits [C, V], the first of equal ones, and its
// log-probability.
char* tandem_most_probable(at::Tensor* logits, int64_t* words, float* log_probs) {
  return guarded([&] {
    TORCH_CHECK(logits->is_contiguous(), "logits must be contiguous");
    const auto columns = logits->size(1);
    const auto* values = logits->const_data_ptr<float>();
    for_rows(logits->size(0), columns, [&](int64_t index) {
      const auto* row = values + index * columns;
      const auto summary = tandem::summarise(row, columns);
      words[index] = std::find(row, row + columns - 1, summary.highest) - row;
      log_probs[index] = summary.highest - summary.log_sum_exp;
    });
  });
}

} // extern "C"
