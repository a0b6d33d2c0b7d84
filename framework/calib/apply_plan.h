// Carries out what a transform declares, on all weights of a model.
#pragma once

#include <string>

#include "model/model.h"
#include "quant/model_transform.h"

namespace grinqh {

// A model with the same function: tensors that change are float32 of its own, the others are views of what
// `model` holds. BadInput starting with `owner` ("transform 'NAME'") for a plan that would change the
// function: a basis where norms have weights, or scales that no source can divide by.
Model apply_plan(const Model& model, const TransformPlan& plan, const std::string& owner);

// Which channel of what comes before makes each input of a block's o_proj: an output of v_proj, shared by the
// query heads of a group. [heads * head_dim]
std::vector<int64_t> value_sources(const ModelConfig& config);

}  // namespace grinqh
