// Plan of attention_decode.cu: splits, scratch memory, and what it refuses.
#pragma once
#include "attention.plan.h"

namespace ewe::kernels {

// A block takes one split of a row's positions, a warp of it 32 of them. A row's splits are the same whatever else the step holds.
constexpr int kAttendWarps = 8;
constexpr int kAttendSplit = 32 * kAttendWarps;
constexpr int kAttendThreads = 32 * kAttendWarps;
// The most query heads of one key-value head in a block, where there are several: their sums lie in registers. DBRX has 6.
constexpr int kAttendGroup = 6;

constexpr int attendSplits(int maxPositions) { return divideUp(maxPositions, kAttendSplit); }

// Positions of a run, of which a warp has two under way at once, in registers: up to 4 pieces of 16 bytes a lane each, within 16 positions.
constexpr int attendRun(int headSize) { return headSize <= 64 ? 16 : headSize <= 128 ? 8 : 4; }
// Blocks on a multiprocessor, whose registers (80 a thread for three) would not do for the rest.
constexpr int attendDecodeBlocks(int headSize, bool grouped) { return grouped || headSize == 96 || headSize == 256 ? 2 : 3; }
// Queries, partial sums of the scores of a run and of the values, and what the warps tell each other.
constexpr int attendDecodeSharedBytes(int headSize, bool grouped) {
  const int group = grouped ? kAttendGroup : 1, scores = attendRun(headSize) * (headSize / 8 | 1), values = 32 * 8;
  return (group * headSize + kAttendWarps * (scores + values + 2 * group)) * 4 + 16;
}

// Rows of one launch: a step of more comes in several, which keeps the scratch memory of long contexts small.
constexpr int kAttendRows = 64;

// Partial results of the splits of one launch's rows: for each split sums of headSize components, the sum of weights and the largest score.
constexpr long long attendScratchBytes(int rows, int heads, int headSize, int maxPositions) {
  return (long long)(rows < kAttendRows ? rows : kAttendRows) * heads * attendSplits(maxPositions) * (headSize + 2) * 4;
}

// The rows from promptRows to rows.
constexpr Launch planAttendDecode(const Attend& a, const CardLimits& limits) {
  if (const char* why = attendRefusal(a, limits)) return refuse(why);
  if (a.step.promptRows < 0 || a.step.promptRows >= a.step.rows) return refuse("this step has no generated rows: it needs the kernel for prompts");
  if (a.step.rows - a.step.promptRows > kAttendRows) return refuse("one launch attends for at most 64 generated rows: launch several");
  const int group = a.heads / a.cache.kvHeads;
  Launch l{};
  append(l, group == 1 ? "attend_decode_d" : "attend_decode_grouped_d");
  append(l, a.cache.headSize);
  append(l, "_");
  append(l, suffix(a.type));
  l.gridX = unsigned(attendSplits(a.maxPositions));
  l.gridY = unsigned(a.cache.kvHeads * divideUp(group, kAttendGroup));
  l.gridZ = unsigned(a.step.rows - a.step.promptRows);
  l.threads = kAttendThreads;
  l.sharedBytes = attendDecodeSharedBytes(a.cache.headSize, group > 1);
  if (l.gridY > 65535) return refuse("there are more key-value heads than one launch can count");
  if (l.gridX > 1 && (!a.scratch || !a.counters))
    return refuse("an attention over several splits needs scratch memory and counters: reserve them first");
  return l;
}

}  // namespace ewe::kernels
