// Runs the simulator inside the python program.
//
// cocotb's simulators load Python as a shared library, which many Pythons (Debian's) do not ship; the python program
// itself always has the interpreter's symbols.  So the simulator is a shared library that is preloaded into python, and
// takes over before python's own main.  Linked last, so that everything it needs is initialised.
#include <cstdlib>

int main(int argc, char** argv);

__attribute__((constructor)) static void take_over(int argc, char** argv) {
    unsetenv("LD_PRELOAD");
    std::exit(main(argc, argv));
}
