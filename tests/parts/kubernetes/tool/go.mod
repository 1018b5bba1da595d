module sluice.dev/tool

go 1.25
