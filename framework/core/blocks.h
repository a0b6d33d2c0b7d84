// Memory of matrices. Pages that are new to the process cost more than most of what is computed on them, so
// large blocks ask for large pages, and are kept for the next one of their size when they are given back.
#pragma once

#include <cstddef>

namespace grinqh {

// Uninitialized, at a multiple of 64 bytes; std::bad_alloc if there is none. From any thread.
void* take_block(size_t bytes);
// `bytes` as it was asked for.
void give_block(void* block, size_t bytes) noexcept;
// Of blocks that were given back and are kept: at most a sixteenth of the machine's memory.
size_t kept_bytes();

}  // namespace grinqh
