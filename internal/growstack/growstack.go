// Package growstack, imported for that alone, gives the main goroutine a stack of 32 KiB
// before anything else has happened on it.
//
// A stack begins with 2 KiB and doubles when it is full. Each time the runtime finds out
// from tables all over the program's file what is on the stack, copies that, and cuts
// up 32 KiB of new memory into stacks of that size. For a program that is to end after
// some milliseconds this is hundreds of kilobytes of tables to map, and four times. As
// this package imports nothing, the linker puts its init before nearly all others
// (go.dev/ref/spec#Program_initialization), while there is hardly anything to copy.
package growstack

func init() { grow() }

// grow returns at once, but it has room for a frame of 14 KiB.
func grow()
