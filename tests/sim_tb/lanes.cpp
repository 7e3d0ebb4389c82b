// Drives eight lanes of test_verilator.py: one byte in and out per lane.
#include "Vtop.h"

extern "C" unsigned long long lanes_run(unsigned long long a, unsigned n_cycles) {
    Vtop top;
    top.a = a;
    for (unsigned i = 0; i < n_cycles; ++i) {
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
    }
    return top.b;
}
