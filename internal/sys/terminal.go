package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// IsTerminal reports whether f is a terminal.
func IsTerminal(f *os.File) bool {
	return control(f, func(fd uintptr) error {
		_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		return err
	}) == nil
}

// RawTerminal makes a terminal pass every byte on as it comes, without echo, line
// editing or signals (termios(3), cfmakeraw). The function that it returns puts
// the old settings back.
func RawTerminal(f *os.File) (restore func() error, err error) {
	var old *unix.Termios
	err = control(f, func(fd uintptr) (err error) {
		old, err = unix.IoctlGetTermios(int(fd), unix.TCGETS)
		if err != nil {
			return os.NewSyscallError("ioctl(TCGETS)", err)
		}
		raw := *old
		raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		raw.Oflag &^= unix.OPOST
		raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
		return os.NewSyscallError("ioctl(TCSETS)", unix.IoctlSetTermios(int(fd), unix.TCSETS, &raw))
	})
	if err != nil {
		return nil, err
	}
	return func() error {
		return control(f, func(fd uintptr) error {
			return os.NewSyscallError("ioctl(TCSETS)", unix.IoctlSetTermios(int(fd), unix.TCSETS, old))
		})
	}, nil
}

// PlainNewlines has a terminal, by either of its ends, write a new line as it is
// and not as carriage return and new line.
func PlainNewlines(f *os.File) error {
	return control(f, func(fd uintptr) error {
		t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		if err != nil {
			return os.NewSyscallError("ioctl(TCGETS)", err)
		}
		t.Oflag &^= unix.ONLCR
		return os.NewSyscallError("ioctl(TCSETS)", unix.IoctlSetTermios(int(fd), unix.TCSETS, t))
	})
}

// Winsize is the size of a terminal in characters; see SetWinsize.
func Winsize(f *os.File) (width, height uint16, err error) {
	err = control(f, func(fd uintptr) error {
		size, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ)
		if err != nil {
			return os.NewSyscallError("ioctl(TIOCGWINSZ)", err)
		}
		width, height = size.Col, size.Row
		return nil
	})
	return width, height, err
}

// DrainTerminal reads what is in a terminal's buffer now, without waiting, and
// hands it to write. F is the master, for the runtime's poller.
func DrainTerminal(f *os.File, write func([]byte) error) error {
	buf := make([]byte, 32<<10)
	return control(f, func(fd uintptr) error {
		for {
			n, err := unix.Read(int(fd), buf)
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN || err == unix.EIO || err == nil && n <= 0: // EIO: nobody has the other end
				return nil
			case err != nil:
				return os.NewSyscallError("read", err)
			}
			if err := write(buf[:n]); err != nil {
				return err
			}
		}
	})
}
