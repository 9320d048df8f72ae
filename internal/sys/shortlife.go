package sys

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// growStack returns at once, but it has room for a frame of 14 KiB.
func growStack()

// ShortLife suits Go's runtime to a program that has ended before it would have
// got going. What it does may fail, for then the program is as slow as any other.
//
//   - The stack grows to its final size while there is nothing on it. Otherwise it
//     doubles four times, and copying it has the runtime read tables from all over
//     the program's file.
//   - The runtime's monitor thread wakes up every 20 µs until it has seen a
//     millisecond of calm, then less often, up to every 10 ms. It gets the longest
//     pause from the start: a timer slack (prctl(2), PR_SET_TIMERSLACK). Thirty
//     switches of threads are a tenth of what a container's start takes.
func ShortLife() {
	growStack()
	const monitorPause = "10000000" // ns
	if tid := monitorThread(); tid != "" {
		fd, err := open("/proc/"+tid+"/timerslack_ns", unix.O_WRONLY, 0)
		if err == nil {
			_, _ = unix.Write(fd, []byte(monitorPause)) // takes CAP_SYS_NICE
			_ = unix.Close(fd)
		}
	}
}

// monitorThread is the first thread that the runtime made, and the second that the
// kernel lists: runtime.main starts it before anything else.
func monitorThread() (tid string) {
	dir, err := open("/proc/self/task", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return ""
	}
	defer func() { _ = unix.Close(dir) }()
	var buf [512]byte
	n, err := syscall.ReadDirent(dir, buf[:])
	if err != nil {
		return ""
	}
	if _, _, names := syscall.ParseDirent(buf[:n], 2, nil); len(names) == 2 {
		return names[1]
	}
	return ""
}
