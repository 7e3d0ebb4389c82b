# The fan's control, driven from a timer of the processing system, as the board's own base design does.
set_property PACKAGE_PIN A12 [get_ports {fan_en_b[0]}]
set_property IOSTANDARD LVCMOS33 [get_ports {fan_en_b[0]}]
set_property SLEW SLOW [get_ports {fan_en_b[0]}]
set_property DRIVE 4 [get_ports {fan_en_b[0]}]
set_property BITSTREAM.GENERAL.COMPRESS TRUE [current_design]
