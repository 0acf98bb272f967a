#include "napi/errors.h"

namespace ewe {

const char* kindName(Kind kind) {
  switch (kind) {
    case Kind::ok: return "ok";
    case Kind::option: return "option";
    case Kind::checkpoint: return "checkpoint";
    case Kind::device: return "device";
    case Kind::memory: return "memory";
    case Kind::context: return "context";
    case Kind::disposed: return "disposed";
    case Kind::aborted: return "aborted";
    case Kind::numeric: return "numeric";
    case Kind::queue: return "queue";
    case Kind::deadline: return "deadline";
    case Kind::internal: return "internal";
  }
  return "internal";
}

Napi::Error toError(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.message);
  error.Set("kind", kindName(failure.kind));
  if (failure.file[0]) error.Set("file", failure.file);
  if (failure.tensor[0]) error.Set("tensor", failure.tensor);
  return error;
}

void throwIf(Napi::Env env, const Status& status) {
  if (!status.ok()) throw toError(env, status.failure());
}

}  // namespace ewe
