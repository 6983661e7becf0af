// Included inside a namespace that has <stdint.h>. Memory that is handed out piece by piece from `at` on.

template <class T> static T* take(char*& at, int64_t count) {
  at = (char*)(((uintptr_t)at + sizeof(T) - 1) / sizeof(T) * sizeof(T));
  T* part = (T*)at;
  at += count * sizeof(T);
  return part;
}

// Room for what is wanted; null for null.
template <class T> static T* room(const T* wanted, int64_t count, char*& at) { return wanted ? take<T>(at, count) : nullptr; }
