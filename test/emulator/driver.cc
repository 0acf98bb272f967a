// driver            lists the cases, one a line
// driver NAME       runs one: exit status 0, or 1 with what was wrong
//
// The emulated driver: memory, copies, streams, events, graphs, the checks of a launch, and how failures stay.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "test/emulator/direct.h"
#include "test/emulator/planted.h"

namespace ewe::test {

using kernels::Planted;

static void expect(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}
static void fails(const Status& status, Kind kind, const char* part) {
  expect(!status.ok(), std::string("nothing failed, expected: ") + part);
  const std::string message = status.failure().message;
  expect(message.find(part) != std::string::npos, "expected \"" + std::string(part) + "\" in: " + message);
  expect(status.failure().kind == kind, "the kind of the failure is " + std::to_string(int(status.failure().kind)) + ": " + message);
}

constexpr size_t kCount = 1000, kBytes = kCount * sizeof(float);

// For how many of 20 seeds the numbers came out as they should.
static int seedsRight(const std::function<bool(Direct&)>& body) {
  int right = 0;
  for (int seed = 1; seed <= 20; seed++) {
    Direct card("streams=shuffle,seed=" + std::to_string(seed));
    right += body(card);
  }
  return right;
}
static void expectSeeds(const char* what, bool sound, const std::function<bool(Direct&)>& body) {
  const int right = seedsRight(body);
  expect(sound ? right == 20 : right < 20, std::string(what) + ": " + std::to_string(right) + " of 20 seeds are right");
}

static cuda::Kernel kernelOf(Direct& card, const char* name, int sharedBytes) {
  cuda::Kernel kernel = nullptr;
  check(card.session->find(name, sharedBytes, &kernel));
  expect(kernel, "no kernel");
  return kernel;
}

struct Case {
  const char* name;
  void (*body)();
};

static const Case cases[] = {
    {"a copy in reads the host's memory as late as its stream allows",
     [] {
       for (const bool waits : {true, false}) {
         expectSeeds(waits ? "with synchronize" : "without", waits, [=](Direct& card) {
           std::vector<float> host(kCount, 1);
           const auto x = card.make<float>(kCount);
           check(card.session->copyIn(card.stream, x.data, host.data(), kBytes));
           if (waits) check(card.session->synchronize(card.stream));
           host.assign(kCount, 2);
           return card.download(x)[kCount - 1] == 1;
         });
       }
     }},
    {"a copy out is there after its stream was synchronised, and maybe not before",
     [] {
       for (const bool waits : {true, false}) {
         expectSeeds(waits ? "with synchronize" : "without", waits, [=](Direct& card) {
           const auto x = card.upload(std::vector<float>(kCount, 3));
           std::vector<float> host(kCount);
           check(card.session->copyOut(card.stream, host.data(), x.data, kBytes));
           if (waits) check(card.session->synchronize(card.stream));
           const bool right = host[0] == 3;
           check(card.session->synchronize(card.stream));
           return right;
         });
       }
     }},
    {"streams are ordered by events and by nothing else",
     [] {
       for (const bool waits : {true, false}) {
         expectSeeds(waits ? "with an event" : "without", waits, [=](Direct& card) {
           cuda::Stream other = nullptr;
           cuda::Event done = nullptr;
           check(card.session->createStream(&other));
           check(card.session->createEvent(&done));
           const auto x = card.upload(std::vector<float>(kCount, 1)), y = card.make<float>(kCount);
           check(card.session->fill(card.stream, x.data, 0, kBytes));
           check(card.session->record(done, card.stream));
           if (waits) check(card.session->wait(other, done));
           check(card.session->copy(other, y.data, x.data, kBytes));
           check(card.session->synchronize(other));
           return card.download(y)[7] == 0;
         });
       }
     }},
    {"a wait is for what was recorded before it, not after",
     [] {
       expectSeeds("re-recorded", true, [](Direct& card) {
         cuda::Stream other = nullptr;
         cuda::Event event = nullptr;
         check(card.session->createStream(&other));
         check(card.session->createEvent(&event));
         check(card.session->record(event, card.stream));
         check(card.session->wait(other, event));
         check(card.session->wait(card.stream, event));
         check(card.session->record(event, other));  // waits for card.stream, not the other way round
         check(card.session->wait(card.stream, event));
         check(card.session->synchronize(card.stream));
         float milliseconds = -1;
         check(card.session->elapsed(event, event, &milliseconds));
         return milliseconds == 0;
       });
     }},
    {"a graph does nothing until it is launched, and each time what it recorded",
     [] {
       expectSeeds("graph", true, [](Direct& card) {
         cuda::Graph graph = nullptr;
         const auto x = card.upload(std::vector<float>(kCount, 1)), y = card.upload(std::vector<float>(kCount, 5)), out = card.make<float>(12);
         check(card.session->beginCapture(card.stream));
         check(card.session->copy(card.stream, y.data, x.data, kBytes));
         const Planted sums{y.data, nullptr, out.data, 12, 50, 0, 0};
         check(card.session->launch(card.stream, kernelOf(card, "planted_reduce", 16), {}, {128, 1, 1}, 16, &sums, sizeof sums));
         fails(card.session->synchronize(card.stream), Kind::internal, "being captured");
         check(card.session->endCapture(card.stream, &graph));
         if (card.download(y)[0] != 5) return false;
         for (const float value : {2.0f, 3.0f}) {
           const std::vector<float> values(kCount, value);
           check(card.session->copyIn(card.stream, x.data, values.data(), kBytes));
           check(card.session->launch(card.stream, graph));
           check(card.session->synchronize(card.stream));
           if (card.download(y)[9] != value || card.download(out)[11] != 50 * value) return false;
         }
         check(card.session->launch(card.stream, graph));
         check(card.session->destroyGraph(graph));  // what was launched is done all the same
         return card.download(y)[9] == 3;
       });
     }},
    {"the argument struct is copied when a launch is called",
     [] {
       expectSeeds("arguments", true, [](Direct& card) {
         const auto x = card.upload(std::vector<float>(kCount, 1)), out = card.make<float>(12);
         Planted sums{x.data, nullptr, out.data, 12, 50, 0, 0};
         check(card.session->launch(card.stream, kernelOf(card, "planted_reduce", 16), {}, {128, 1, 1}, 16, &sums, sizeof sums));
         std::memset(&sums, 0xFF, sizeof sums);
         return card.download(out)[3] == 50;
       });
     }},
    {"fresh memory is full of NaN",
     [] {
       Direct card;
       for (const float x : card.download(card.make<float>(kCount))) expect(x != x, "a number in memory that nobody wrote");
       void* host = nullptr;
       check(card.session->allocateHost(&host, kBytes));
       expect(static_cast<float*>(host)[5] != static_cast<float*>(host)[5], "a number in host memory that nobody wrote");
       check(card.session->releaseHost(host));
     }},
    {"allocations are aligned, counted, and end with the card's memory",
     [] {
       Direct card("memory=1M");
       size_t free = 0, total = 0;
       void *a = nullptr, *b = nullptr;
       check(card.session->allocate(&a, 1000));
       check(card.session->allocate(&b, 1));
       expect(reinterpret_cast<uintptr_t>(a) % 256 == 0 && reinterpret_cast<uintptr_t>(b) % 256 == 0, "not aligned to 256 bytes");
       check(card.session->memory(&free, &total));
       expect(total == 1 << 20 && free == total - 1024 - 256, "wrong count of free bytes");
       void* c = nullptr;
       fails(card.session->allocate(&c, 1 << 20), Kind::memory, "1048576 were asked for");
       check(card.session->release(a));
       check(card.session->memory(&free, &total));
       expect(free == total - 256, "what was released is not free");
       check(card.session->allocate(&c, free));
       fails(card.session->release(a), Kind::internal, "release of");
     }},
    {"copies stay inside allocations and go in the direction they say",
     [] {
       Direct card;
       std::vector<float> host(kCount);
       const auto x = card.make<float>(kCount), y = card.make<float>(kCount);
       fails(card.session->copyIn(card.stream, x.data + 1, host.data(), kBytes), Kind::internal, "4000 bytes at offset 4 of an allocation of 4000");
       fails(card.session->copyOut(card.stream, host.data(), x.data - 1, kBytes), Kind::internal, "offset -4");
       fails(card.session->copyOut(card.stream, x.data, y.data, kBytes), Kind::internal, "the host's memory is device memory");
       fails(card.session->copyIn(card.stream, host.data(), x.data, kBytes), Kind::internal, "not device memory");
       fails(card.session->copy(card.stream, y.data, host.data(), kBytes), Kind::internal, "not device memory");
       fails(card.session->copy(card.stream, x.data, x.data + 1, 8), Kind::internal, "overlap");
       fails(card.session->fill(card.stream, x.data, 0, kBytes + 1), Kind::internal, "4001 bytes");
       check(card.session->copy(card.stream, x.data, y.data, kBytes));
     }},
    {"memory that was released is not copied to by work that waits",
     [] {
       Direct card("streams=shuffle");
       const auto x = card.make<float>(kCount);
       cuda::Graph graph = nullptr;
       check(card.session->beginCapture(card.stream));
       const std::vector<float> host(kCount);
       check(card.session->copyIn(card.stream, x.data, host.data(), kBytes));
       check(card.session->endCapture(card.stream, &graph));
       check(card.session->release(x.data));
       Status status = card.session->launch(card.stream, graph);
       if (status.ok()) status = card.session->synchronize(card.stream);
       fails(status, Kind::internal, "copyIn: 4000 bytes at");
     }},
    {"a launch that the card or the kernel does not take is refused",
     [] {
       Direct card("strict");
       const Planted args{};
       const auto out = card.make<float>(12);
       const Planted none{nullptr, nullptr, out.data, 0, 0, 0, 0};
       const cuda::Kernel kernel = kernelOf(card, "planted_reduce", 16);
       auto launch = [&](cuda::Dim grid, cuda::Dim block, int shared, size_t bytes) {
         return card.session->launch(card.stream, kernel, grid, block, shared, &args, bytes);
       };
       fails(launch({}, {256, 1, 1}, 16, sizeof args), Kind::internal, "up to 128");
       fails(launch({}, {100, 1, 1}, 16, sizeof args), Kind::internal, "whole warps");
       fails(launch({}, {32, 2, 1}, 16, sizeof args), Kind::internal, "one dimension");
       fails(launch({}, {128, 1, 1}, 16, 8), Kind::internal, "8 bytes of arguments, the kernel takes 40");
       fails(launch({}, {128, 1, 1}, 32, sizeof args), Kind::internal, "find() was told 16");
       fails(launch({0, 1, 1}, {128, 1, 1}, 16, sizeof args), Kind::internal, "a grid of 0");
       fails(launch({1, 65536, 1}, {128, 1, 1}, 16, sizeof args), Kind::internal, "a grid of 1 x 65536");
       cuda::Kernel found = nullptr;
       fails(card.session->find("planted_reduce", card.card.sharedPerBlock + 1, &found), Kind::internal, "has 166912 for a block");
       check(card.session->find("no_such_kernel", 0, &found));
       expect(!found, "a kernel that is not there was found");
       const cuda::Kernel large = kernelOf(card, "planted_reduce", card.card.sharedPerBlock);
       fails(card.session->launch(card.stream, large, {}, {128, 1, 1}, 50000, &none, sizeof none), Kind::internal,
             "4 blocks of 128 threads and 50000 bytes");
       check(card.session->launch(card.stream, large, {}, {128, 1, 1}, 40000, &none, sizeof none));
     }},
    {"a kernel that asks for more shared memory than its launch gave is told",
     [] {
       Direct card;
       const Planted args{};
       fails(card.session->launch(card.stream, kernelOf(card, "planted_reduce", 16), {}, {128, 1, 1}, 0, &args, sizeof args), Kind::device,
             "ReduceShared needs 16 bytes of shared memory, the launch gave 0");
     }},
    {"a failed kernel loses the card for its session, and for no other",
     [] {
       Direct card;
       const auto out = card.make<int>(64);
       const Planted args{nullptr, nullptr, out.data, 0, 0, kernels::kAbsentLane, 0};
       const Status status = card.session->launch(card.stream, kernelOf(card, "planted_meet", 0), {3, 1, 1}, {64, 1, 1}, 0, &args, sizeof args);
       fails(status, Kind::device, "planted_meet: block (0, 0, 0): threads wait for ever");
       std::vector<int> host(64);
       void* memory = nullptr;
       fails(card.session->copyOut(card.stream, host.data(), out.data, 256), Kind::device, "is lost: planted_meet");
       fails(card.session->allocate(&memory, 8), Kind::device, "is lost");
       fails(card.session->synchronize(card.stream), Kind::device, "is lost");
       Direct other;
       const auto again = other.make<int>(64);
       other.launch("planted_meet", {}, 64, 0, Planted{nullptr, nullptr, again.data, 0, 0, 0, 0});
       expect(other.download(again)[5] == 4, "wrong in the next session");
     }},
    {"the host must not touch device memory in strict mode",
     [] {
       Direct card("strict");
       const auto x = card.upload(std::vector<float>(kCount, 1));
       expect(card.download(x)[3] == 1, "wrong copy");
       int messages[2];
       expect(pipe(messages) == 0, "pipe");
       const pid_t child = fork();
       if (child == 0) {
         dup2(messages[1], STDERR_FILENO);
         volatile const float* at = x.data + 3;
         _exit(*at == 1 ? 0 : 1);
       }
       int state = 0;
       waitpid(child, &state, 0);
       expect(WIFSIGNALED(state) && WTERMSIG(state) == SIGSEGV, "the read was not noticed");
       char text[200] = {};
       expect(read(messages[0], text, sizeof text - 1) > 0, "no message");
       expect(std::strstr(text, "the host touches device memory: 1 bytes at offset 12 of an allocation of 4000 bytes"), text);
     }},
    {"a seed runs a kernel the same way every time",
     [] {
       for (const char* schedule : {"random", "prio"}) {
         std::vector<float> first;
         bool differ = false;
         for (int run = 0; run < 12; run++) {
           Direct card("schedule=" + std::string(schedule) + ",seed=" + std::to_string(run < 6 ? 3 : run));
           std::vector<float> a(100 * 128);
           for (size_t i = 0; i < a.size(); i++) a[i] = float(i % 7);
           const auto out = card.make<float>(100);
           card.launch("planted_reduce", {}, 128, 16, Planted{card.upload(a).data, nullptr, out.data, 100, 128, kernels::kNoLeadingBarrier, 0});
           const std::vector<float> got = card.download(out);
           if (run == 0) first = got;
           const bool same = std::memcmp(got.data(), first.data(), got.size() * sizeof(float)) == 0;
           if (run < 6) expect(same, "the same seed came to other numbers");
           differ = differ || !same;
         }
         expect(differ, "six more seeds came to the same numbers");
       }
     }},
    {"settings that make no sense are refused",
     [] {
       char error[400];
       for (const char* text :
            {"schedule=fast", "seed", "seed=x", "seed=-1", "workers=0", "workers=65", "memory=1", "strict=yes", "color=red", "memory=9Q"}) {
         expect(!ewe_emulator_configure(text, error, sizeof error), std::string("taken: ") + text);
         expect(std::strstr(error, text) && std::strstr(error, "schedule=fifo|lifo|random|prio"), error);
       }
       expect(ewe_emulator_configure("schedule=prio,seed=18446744073709551615,copies=coin,streams=shuffle,workers=2,memory=64K,strict", error,
                                     sizeof error),
              error);
       expect(ewe_emulator_configure("", error, sizeof error), error);
     }},
};

}  // namespace ewe::test

int main(int count, char** arguments) {
  for (const auto& one : ewe::test::cases) {
    if (count < 2) {
      std::printf("%s\n", one.name);
    } else if (!std::strcmp(one.name, arguments[1])) {
      try {
        one.body();
        return 0;
      } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
        return 1;
      }
    }
  }
  return count < 2 ? 0 : 2;
}
