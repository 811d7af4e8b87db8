// One build serves every x86-64 machine: the loader picks the version its vector units allow.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define RLAIF_VECTOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RLAIF_VECTOR
#endif
