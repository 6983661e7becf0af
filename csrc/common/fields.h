#pragma once
// Structs that Python fills, from one list of their fields: a macro FIELDS(FIELD) with a line FIELD(type, name, initial value); for
// each. From it follow the struct and what bind_fields.h tells Python of it. Also enumerations that can say their names.
#include <cstdint>

#define CT_MEMBER(type, name, initial) type name = initial
#define CT_VISIT(type, name, initial) visit(#name, x.name)

#define CT_STRUCT(Name, FIELDS)                                                                           \
  struct Name {                                                                                           \
    FIELDS(CT_MEMBER)                                                                                     \
    template <class X, class Visit> static void each_field(X& x, const Visit& visit) { FIELDS(CT_VISIT) } \
  }

// The fields of `Base`, then these.
#define CT_STRUCT_FROM(Name, Base, FIELDS)                                             \
  struct Name : Base {                                                                 \
    FIELDS(CT_MEMBER)                                                                  \
    template <class X, class Visit> static void each_field(X& x, const Visit& visit) { \
      Base::each_field(x, visit);                                                      \
      FIELDS(CT_VISIT)                                                                 \
    }                                                                                  \
  }

#define CT_ENUM(Name, ...)                                      \
  enum class Name : int32_t { __VA_ARGS__ };                    \
  constexpr const char* names_of(Name) { return #__VA_ARGS__; } \
  constexpr int count_of(Name) {                                \
    enum { __VA_ARGS__, count };                                \
    return count;                                               \
  }                                                             \
  static_assert(true, "takes the semicolon")
