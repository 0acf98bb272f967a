// The one place where a Status becomes a JavaScript error: an Error with a `kind`, which src/errors.ts turns into its class.
#pragma once
#include <napi.h>

#include "base/error.h"

namespace ewe {

const char* kindName(Kind kind);
Napi::Error toError(Napi::Env env, const Failure& failure);
// Throws when the status is a failure.
void throwIf(Napi::Env env, const Status& status);

}  // namespace ewe
