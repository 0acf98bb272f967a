// Exports of the addon: src/native.ts is their type.
#include <napi.h>

#include "napi/devices.h"
#include "napi/errors.h"
#include "napi/objects.h"
#include "napi/values.h"

#ifndef EWE_VERSION
#error "EWE_VERSION is the version of package.json"
#endif

namespace ewe {

static Napi::Value version(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), EWE_VERSION); }

template <typename Text>
static Napi::Array strings(Napi::Env env, const std::vector<Text>& all) {
  Napi::Array list = Napi::Array::New(env, all.size());
  for (size_t i = 0; i < all.size(); i++) list.Set(uint32_t(i), all[i]);
  return list;
}

static Napi::Value devices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string reason;
  const std::vector<DeviceInfo> all = listDevices(reason);
  Napi::Array list = Napi::Array::New(env, all.size());
  for (size_t i = 0; i < all.size(); i++) {
    Napi::Object o = Napi::Object::New(env);
    o.Set("id", all[i].id);
    o.Set("kind", all[i].kind);
    o.Set("name", all[i].name);
    o.Set("memory", all[i].memory);
    o.Set("weights", strings(env, all[i].weights));
    o.Set("computeCapability", all[i].computeCapability);
    if (all[i].kind == "cpu") {
      o.Set("instructionSets", strings(env, all[i].instructionSets));
      o.Set("threads", all[i].threads);
    } else {
      o.Set("family", all[i].family);
      o.Set("multiprocessors", all[i].multiprocessors);
    }
    if (!all[i].problem.empty()) o.Set("problem", all[i].problem);
    list.Set(uint32_t(i), o);
  }
  Napi::Object out = Napi::Object::New(env);
  out.Set("devices", list);
  out.Set("cudaReason", reason);
  return out;
}

static Napi::Value layout(const Napi::CallbackInfo& info) {
  const Spec spec = specOf(info[0]);
  const LoadOptions options = loadOptionsOf(info[1]);
  Device device;
  throwIf(info.Env(), makePlanner(options.device, options.instructionSet, device));
  return layoutObject(info.Env(), layoutOf(spec, *device.ops, options.engine));
}

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* data = new AddonData;
  env.SetInstanceData<AddonData>(data);
  // Runs while the environment is still whole: engines of a worker that ends, or of a process that exits, stop before their objects go.
  env.AddCleanupHook([data] {
    for (EngineObject* engine : data->engines) engine->shutDown();
    data->engines.clear();
  });
  exports.Set("version", Napi::Function::New(env, version, "version"));
  exports.Set("devices", Napi::Function::New(env, devices, "devices"));
  exports.Set("layout", Napi::Function::New(env, layout, "layout"));
  exports.Set("Engine", EngineObject::define(env));
  return exports;
}

}  // namespace ewe

static Napi::Object initAddon(Napi::Env env, Napi::Object exports) { return ewe::init(env, exports); }
NODE_API_MODULE(ewe, initAddon)
