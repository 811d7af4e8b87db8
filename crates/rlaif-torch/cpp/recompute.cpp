// Segment recomputation: a node of the autograd graph that stands for a whole segment and runs it
// again in the backward pass (Chen et al., 2016, arXiv:1604.06174).
#include "rng.hpp"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// What the Rust side of a segment answers with.
struct Answer {
  variable_list outputs;
  std::string error;
};

class Closure {
 public:
  explicit Closure(RlaifSegment segment) : segment_(segment) {}
  Closure(const Closure&) = delete;
  Closure& operator=(const Closure&) = delete;
  ~Closure() { segment_.drop(segment_.data); }

  variable_list operator()(const variable_list& inputs) const {
    std::vector<const Tensor*> pointers;
    pointers.reserve(inputs.size());
    for (const Tensor& t : inputs) pointers.push_back(&t);
    Answer answer;
    const auto status = segment_.call(segment_.data, pointers.data(), pointers.size(), &answer);
    TORCH_CHECK(status == 0, "recomputation of a segment failed: ", answer.error);
    return std::move(answer.outputs);
  }

 private:
  RlaifSegment segment_;
};

struct RngState {
  int32_t cuda;
  Tensor state;
};

// Generators as they were in the forward pass while it lives, then as they were before.
class RngReplay {
 public:
  explicit RngReplay(const std::vector<RngState>& states) {
    for (const auto& s : states) before_.push_back({s.cuda, rlaif::rng_state(s.cuda)});
    for (const auto& s : states) rlaif::set_rng_state(s.cuda, s.state);
  }
  RngReplay(const RngReplay&) = delete;
  RngReplay& operator=(const RngReplay&) = delete;
  ~RngReplay() {
    // A state that was just read is accepted back.
    for (const auto& s : before_) rlaif::set_rng_state(s.cuda, s.state);
  }

 private:
  std::vector<RngState> before_;
};

class Recompute final : public Node {
 public:
  Recompute(torch::autograd::edge_list&& edges, std::shared_ptr<Closure> closure,
            const variable_list& inputs, std::vector<RngState> rng)
      : Node(std::move(edges)), closure_(std::move(closure)), rng_(std::move(rng)) {
    for (const Tensor& t : inputs) {
      needs_grad_.push_back(t.requires_grad());
      inputs_.emplace_back(t, /*is_output=*/false);
    }
  }

  std::string name() const override { return "RlaifRecompute"; }

  variable_list apply(variable_list&& grads) override {
    // Recursive: a segment may run a backward pass of its own.
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    TORCH_CHECK(closure_, torch::autograd::ERR_BACKWARD_TWICE);
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "a recomputed segment has no second derivative; run the backward pass without "
                "create_graph, or the segment without recomputation");
    variable_list inputs;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      Tensor t = inputs_[i].unpack(shared_from_this()).detach();
      if (needs_grad_[i]) t.set_requires_grad(true);
      inputs.push_back(std::move(t));
    }

    const variable_list outputs = [&] {
      const RngReplay replay(rng_);
      const at::AutoGradMode with_grad(true);
      return (*closure_)(inputs);
    }();
    TORCH_CHECK(outputs.size() == outputs_.size(), "a recomputed segment gave ", outputs.size(),
                " tensors, and ", outputs_.size(), " the first time");

    variable_list roots, root_grads;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (outputs_[i] < 0 || !outputs[i].requires_grad()) continue;
      const Tensor& grad = grads[outputs_[i]];
      if (!grad.defined()) continue;
      TORCH_CHECK(grad.sizes() == outputs[i].sizes(), "a recomputed segment gave an output ",
                  outputs[i].sizes(), ", and ", grad.sizes(), " the first time");
      roots.push_back(outputs[i]);
      root_grads.push_back(grad);
    }
    if (!roots.empty()) torch::autograd::backward(roots, root_grads);

    variable_list result;
    for (const Tensor& t : inputs) result.push_back(t.grad());
    return result;
  }

  void release_variables() override {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    inputs_.clear();
    rng_.clear();
    closure_.reset();
  }

  // Makes the node the origin of `output`; integer outputs have none.
  Tensor adopt(const Tensor& output, const std::shared_ptr<Node>& self) {
    Tensor t = output.detach();
    if (!torch::autograd::isDifferentiableType(t.scalar_type())) {
      outputs_.push_back(-1);
      return t;
    }
    outputs_.push_back(static_cast<int64_t>(num_inputs()));
    torch::autograd::set_history(t, self);
    return t;
  }

 private:
  std::recursive_mutex mutex_;
  std::shared_ptr<Closure> closure_;
  std::vector<SavedVariable> inputs_;
  std::vector<char> needs_grad_;
  std::vector<RngState> rng_;
  // For each output of the segment, which gradient the node receives for it; -1 for none.
  std::vector<int64_t> outputs_;
};

}  // namespace

int32_t rlaif_grad_enabled() noexcept { return at::GradMode::is_enabled(); }

int32_t rlaif_recompute(RlaifSegment segment, const Tensor* const* inputs, size_t inputs_len,
                        const int32_t* rng_devices, const Tensor* const* rng_states,
                        size_t rng_len, const Tensor* const* outputs, Tensor** adopted,
                        size_t outputs_len) noexcept {
  std::shared_ptr<Closure> closure;
  try {
    closure = std::make_shared<Closure>(segment);
  } catch (...) {
    segment.drop(segment.data);
    return rlaif::fail(kOutOfMemory, "no memory for a closure");
  }
  return rlaif::guarded([&] {
    variable_list ins;
    for (size_t i = 0; i < inputs_len; ++i) ins.push_back(*inputs[i]);
    std::vector<RngState> rng;
    for (size_t i = 0; i < rng_len; ++i) rng.push_back({rng_devices[i], *rng_states[i]});
    auto edges = torch::autograd::collect_next_edges(ins);
    const std::shared_ptr<Recompute> node(
        new Recompute(std::move(edges), std::move(closure), ins, std::move(rng)),
        torch::autograd::deleteNode);
    variable_list outs;
    for (size_t i = 0; i < outputs_len; ++i) outs.push_back(node->adopt(*outputs[i], node));
    for (size_t i = 0; i < outputs_len; ++i) adopted[i] = rlaif::give(outs[i]);
  });
}

int32_t rlaif_answer_output(void* answer, const Tensor* output) noexcept {
  return rlaif::guarded([&] { static_cast<Answer*>(answer)->outputs.push_back(*output); });
}

int32_t rlaif_answer_error(void* answer, const char* message, size_t len) noexcept {
  return rlaif::guarded([&] { static_cast<Answer*>(answer)->error.assign(message, len); });
}
