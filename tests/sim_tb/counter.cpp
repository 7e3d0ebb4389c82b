// Drives the counter of test_verilator.py.
#include "Vtop.h"

extern "C" {
void* counter_new() { return new Vtop; }
void counter_delete(void* handle) { delete static_cast<Vtop*>(handle); }
unsigned counter_run(void* handle, unsigned step, unsigned n_cycles) {
    Vtop* top = static_cast<Vtop*>(handle);
    top->enable = 1;
    top->step = step;
    for (unsigned i = 0; i < n_cycles; ++i) {
        top->clk = 0;
        top->eval();
        top->clk = 1;
        top->eval();
    }
    return top->count;
}
}
