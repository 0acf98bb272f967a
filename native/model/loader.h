// Reads placements from a checkpoint's mapped files and hands them to the device in pieces, rounded or quantised on the way.
#pragma once
#include "base/mapping.h"
#include "model/weights.h"

namespace ewe {

// Where a placement's rows go: a matrix (from some column on), a table, or a vector (added to what is there, for the sum of two biases).
struct Target {
  int64_t rows = 0, columns = 1;
  const Matrix* matrix = nullptr;
  int firstColumn = 0;
  const void* table = nullptr;
  DType tableType = DType::float32;
  const float* vector = nullptr;
  bool add = false;
};

// A placement that goes to some columns of a matrix.
struct Part {
  const Placement* placement;
  Target target;
};

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, Ops& ops, Threads& threads, const std::atomic<bool>& cancel)
      : checkpoint_(checkpoint), ops_(ops), threads_(threads), cancel_(cancel) {}

  Status open();
  // Against the files, and against the place it goes to.
  Status check(const Placement&, const Target&) const;
  // The scales of an int8 matrix, from all of its parts. They are those that place() quantises with from then on.
  Status chooseScales(const std::vector<Part>& parts);
  Status place(const Placement&, const Target&);

 private:
  struct Source {
    int32_t tensor, row;
  };
  Status rowMap(const Placement&, std::vector<Source>& map) const;
  Status placeVector(const Placement&, const Target&, const std::vector<Source>& map);
  Status placePiece(const Target&, int64_t first, int rows, std::vector<float>& numbers);
  // Calls body(first row, rows, numbers of these rows) for all rows of a placement, on all threads; pieces begin at multiples of 16 rows.
  template <class Body>
  Status eachPiece(const Placement&, const std::vector<Source>& map, Body body);

  const Checkpoint& checkpoint_;
  Ops& ops_;
  Threads& threads_;
  const std::atomic<bool>& cancel_;
  std::vector<Mapping> maps_;
  std::vector<float> scales_;  // of the rows of one matrix
};

}  // namespace ewe
