// Plan of attention.cu: its tiles, and what it refuses.
#pragma once
#include "plan.h"

namespace ewe::kernels {

// What the attention kernels are compiled for, each exactly.
constexpr int kHeadSizes[] = {16, 32, 64, 80, 96, 128, 256};
constexpr bool attends(int headSize) {
  for (int size : kHeadSizes) {
    if (size == headSize) return true;
  }
  return false;
}

// A block has rows() query rows of one head. Positions come in tiles of `keys`, counted from 0. The order of a row's sums depends on `keys`, which
// therefore follows from path and head size alone; all else could be chosen anew for each launch without changing a bit.
struct AttendTile {
  int warps, rowTiles;  // each warp has rowTiles tiles of 16 rows
  int keys;
  int blocks;  // that should fit on a multiprocessor
  constexpr int rows() const { return 16 * warps * rowTiles; }
  constexpr int threads() const { return 32 * warps; }
};

// A second tile of rows in a warp halves what it reads of keys and values in shared memory, which is what bounds one. The sums of 128 components then
// take 128 registers of a thread, as those of 256 do with one tile of rows.
//   700, 750  no copies beside the threads: more warps instead of more rows, within the 64 KB of a T4. 256 components leave registers for 16 keys
//   only. 800, 900  from 96 components on 32 keys: scores of 64 are too many registers, and two blocks fit in the 100 KB of an A10. Of 256 components
//   its
//             99 KB for a block hold 128 rows and 32 keys.
constexpr AttendTile attendTile(int path, int headSize) {
  if (path < 800) return headSize == 256 ? AttendTile{4, 1, 16, 1} : AttendTile{8, 1, 64, 1};
  if (headSize == 256) return {8, 1, 32, 1};
  return {4, 2, headSize >= 96 ? 32 : 64, 2};
}

// 16-byte places of a row in shared memory: a row whose pieces are no power of two gets one more, so that 8 rows at one column lie in different
// banks.
constexpr int attendRowPlaces(int headSize) {
  const int pieces = headSize / 8;
  return (pieces & (pieces - 1)) == 0 ? pieces : pieces + 1;
}

constexpr int attendSharedBytes(int path, int headSize) {
  const AttendTile tile = attendTile(path, headSize);
  return (tile.rows() + 2 * tile.keys) * attendRowPlaces(headSize) * 16;
}

// What both attention kernels refuse; null when all is well.
constexpr const char* attendRefusal(const Attend& a, const CardLimits& limits) {
  if (!attends(a.cache.headSize)) return "a card attends with heads of 16, 32, 64, 80, 96, 128 or 256 components: use the CPU for others";
  if (a.type == DType::float32 || a.type == DType::int8) return "a card attends in bfloat16 or float16: load the weights so, or as int8";
  if (!multiplies(limits.path, a.type)) return "this card has no bfloat16 arithmetic: load the weights as float16 or int8";
  if (a.cache.type != a.type) return "the cache must have the type of the queries";
  if (a.cache.kvHeads < 1 || a.heads < 1 || a.heads % a.cache.kvHeads != 0) return "the key-value heads must divide the query heads";
  if (a.cache.pageSize < 16 || a.cache.pageSize % 16 != 0) return "a page of the cache must hold a multiple of 16 positions: choose such a pageSize";
  if (a.cache.blockBytes % 16 != 0 || a.cache.blockBytes < (long long)a.cache.pageSize * a.cache.headSize * 2)
    return "a block of the cache must be as long as its page, and aligned to 16 bytes";
  if (a.maxPositions < 1) return "an attention over no positions: say how many there can be";
  return nullptr;
}

// The prompt rows of the step.
constexpr Launch planAttend(const Attend& a, const CardLimits& limits) {
  if (const char* why = attendRefusal(a, limits)) return refuse(why);
  if (a.step.promptRows < 1 || a.step.promptSequences < 1) return refuse("this step has no prompt rows: it needs the kernel for generated ones");
  if (a.step.live) return refuse("a step with prompt rows can't be recorded: its tiles of rows differ from step to step");
  if (a.yStride % 2 != 0) return refuse("pairs of components are written at once: rows of the result must lie an even number of elements apart");
  const AttendTile tile = attendTile(limits.path, a.cache.headSize);
  Launch l{};
  l.sharedBytes = attendSharedBytes(limits.path, a.cache.headSize);
  if (l.sharedBytes > limits.sharedPerBlock) return refuse("this card's shared memory is too small for such heads");
  append(l, "attend_prefill_d");
  append(l, a.cache.headSize);
  append(l, "_");
  append(l, suffix(a.type));
  // The lengths of the sequences lie on the device: as many tiles as they can come to.
  const int spare = a.step.promptRows > a.step.promptSequences ? a.step.promptRows - a.step.promptSequences : 0;
  l.gridX = unsigned(a.heads);
  l.gridY = unsigned(spare / tile.rows() + a.step.promptSequences);
  l.gridZ = 1;
  l.threads = unsigned(tile.threads());
  if (l.gridY > 65535) return refuse("a step has too many prompt rows for one launch: lower the chunk of prompts");
  return l;
}

}  // namespace ewe::kernels
