// What every file of the shim shares.
#pragma once

#include <cstring>
#include <exception>

// Every function of the shim returns null, or a message that the caller frees with tandem_free.
template <class Body>
char* guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  }
}
