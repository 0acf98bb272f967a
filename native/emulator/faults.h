// Faults of the processor while a kernel runs (an address that is nobody's, a stack that is too small, a division by zero) end the launch with a
// message, like every other failure. In the sanitizers' builds they are left to the sanitizer.
#pragma once

namespace ewe::emulator {

class Heap;

// Makes this thread of the host ready for them.
void catchFaults();
// A strict heap, whose memory the host must not touch: doing so ends the process, and this has it say why.
void guardHeap(const Heap* heap);
void forgetHeap(const Heap* heap);

}  // namespace ewe::emulator
