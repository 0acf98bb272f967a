// The CPU device. Its arithmetic is compiled once per instruction set, each in a namespace of its own (backend.h); this is the baseline part:
// which sets there are, which of them this machine runs, and the few services that need the C++ library.
//
// The files of an instruction set include no C++ library header: an inline function of the library compiled there for AVX-512 could be the copy that
// the linker keeps for everybody, and an older machine would die of it.
#pragma once
#include "ops/ops.h"

namespace ewe {

class Threads;

// From the slowest to the fastest; null ends the list.
extern const char* const kCpuSets[];
bool cpuSupports(const char* set);

// set is "auto" (the fastest this machine has) or one of kCpuSets; one that this machine lacks is refused.
Status createCpu(const char* set, Threads& threads, Ops** out);

// Services for the instruction sets.
namespace host {
using Body = void (*)(void* context, long begin, long end, int thread);
int threads(const Threads&);
void each(Threads&, long items, long grain, Body body, void* context);
void* allocate(size_t bytes);  // aligned to 64 bytes and zeroed; null when there is no memory
void release(void* memory);
}  // namespace host

}  // namespace ewe
