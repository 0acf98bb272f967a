// JavaScript values to the structs of the engine. TypeScript has checked what users give; these checks guard memory against ewe's own mistakes, so a
// failure here is Kind::internal.
#pragma once
#include <napi.h>

#include <string>

#include "engine/layout.h"
#include "engine/request.h"
#include "model/weights.h"

namespace ewe {

struct LoadOptions {
  std::string device, instructionSet;
  int threads;
  EngineOptions engine;
};

Spec specOf(const Napi::Value& value);
Checkpoint checkpointOf(const Napi::Value& value);
LoadOptions loadOptionsOf(const Napi::Value& value);
Request requestOf(const Napi::Value& value, const Spec& spec, const EngineOptions& options);
TextTable textTableOf(const Napi::Value& bytes, const Napi::Value& ends, const Napi::Value& special);
// Checked against vocabulary and context.
std::vector<int> tokensOf(const Napi::Value& value, const Spec& spec, int maxContext);

Napi::Object layoutObject(Napi::Env env, const Layout& layout);
Napi::Object eventObject(Napi::Env env, const Event& event);

}  // namespace ewe
