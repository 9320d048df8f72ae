// Package dbus speaks enough of D-Bus to ask systemd for a scope: method calls
// over a unix socket and the signals that answer them, directly with a systemd
// instance (its private socket, no broker in between) or through a bus.
//
// It is a client only: it exports nothing, passes no descriptors and starts no
// goroutine of its own. A library would more than double the start-up time of
// strake-runtime (docs/adr/0012). What the peer sends is not trusted: every size
// has a limit, see message.go.
//
// A Conn belongs to one goroutine. After an error of the transport, and when a
// context has ended in a call, it is of no use any more but for Close.
package dbus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

// Conn is a connection.
type Conn struct {
	file   *os.File
	in     *bufio.Reader
	serial uint32
	keep   func(*Message) bool
	kept   []*Message
}

// Call is a method call. Destination is empty without a bus.
type Call struct {
	Destination, Path, Interface, Member string
	Args                                 []Value
}

// Error is what the peer answered instead of a result.
type Error struct{ Name, Text string }

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Name
	}
	return e.Text + " (" + e.Name + ")"
}

// IsError says whether err is a peer's error of that name.
func IsError(err error, name string) bool {
	var e *Error
	return errors.As(err, &e) && e.Name == name
}

// Dial connects to the unix socket at path and authenticates as the user that
// the kernel says we are. The caller closes the connection.
func Dial(ctx context.Context, path string) (*Conn, error) {
	file, err := sys.DialStream(path)
	if err != nil {
		return nil, fmt.Errorf("D-Bus: %w", err)
	}
	c := &Conn{file: file, in: bufio.NewReaderSize(file, 4096)}
	if err := c.until(ctx, c.authenticate); err != nil {
		return nil, errors.Join(fmt.Errorf("D-Bus %s: authenticate: %w", path, err), file.Close())
	}
	return c, nil
}

// DialBus connects to a bus by its address, such as
// "unix:path=/run/dbus/system_bus_socket", and says hello.
func DialBus(ctx context.Context, address string) (*Conn, error) {
	paths, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, path := range paths {
		c, err := Dial(ctx, path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		_, err = c.Call(ctx, busCall("Hello"))
		if err == nil {
			return c, nil
		}
		errs = append(errs, err, c.Close())
	}
	return nil, errors.Join(errs...)
}

func busCall(member string, args ...Value) Call {
	return Call{"org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", member, args}
}

// AddMatch asks a bus for signals that fit the rule.
func (c *Conn) AddMatch(ctx context.Context, rule string) error {
	_, err := c.Call(ctx, busCall("AddMatch", String(rule)))
	return err
}

// parseAddress returns the unix sockets of a server address; those in the
// abstract namespace begin with "@".
func parseAddress(address string) ([]string, error) {
	var paths []string
	for one := range strings.SplitSeq(address, ";") {
		list, ok := strings.CutPrefix(one, "unix:")
		if !ok {
			continue
		}
		for pair := range strings.SplitSeq(list, ",") {
			key, value, _ := strings.Cut(pair, "=")
			value, err := unescape(value)
			if err != nil {
				return nil, fmt.Errorf("D-Bus address %.200q: %w", address, err)
			}
			switch key {
			case "path":
				paths = append(paths, value)
			case "abstract":
				paths = append(paths, "@"+value)
			}
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("D-Bus address %.200q: names no unix socket: give unix:path=FILE", address)
	}
	return paths, nil
}

// unescape decodes %XX.
func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		var n byte
		if i+2 >= len(s) {
			return "", errors.New("% without two digits")
		}
		if _, err := fmt.Sscanf(s[i+1:i+3], "%02x", &n); err != nil {
			return "", errors.New("% without two digits")
		}
		b.WriteByte(n)
		i += 2
	}
	return b.String(), nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.file.Close() }

// until runs an exchange that ends when ctx does.
func (c *Conn) until(ctx context.Context, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.file.SetDeadline(time.Unix(1, 0)) })
	err := do()
	if !stop() && errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return err
}

// maxAuthLine bounds a line of the peer's in the authentication protocol.
const maxAuthLine = 512

// authenticate says it all in one write, as the peer takes our user from the
// socket's credentials: EXTERNAL without a name, which is right in user
// namespaces too.
func (c *Conn) authenticate() error {
	if _, err := c.file.WriteString("\x00AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"); err != nil {
		return err
	}
	for range 2 { // DATA, the challenge, then OK
		line, err := c.authLine()
		if err != nil {
			return err
		}
		switch verb, _, _ := strings.Cut(line, " "); verb {
		case "DATA":
		case "OK":
			return nil
		default:
			return fmt.Errorf("the peer says %.80q", line)
		}
	}
	return errors.New("the peer asks for more than our credentials")
}

func (c *Conn) authLine() (string, error) {
	var line []byte
	for len(line) < maxAuthLine {
		b, err := c.in.ReadByte()
		if err != nil {
			return "", err
		}
		if b == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		line = append(line, b)
	}
	return "", errors.New("the peer's line is too long")
}

// maxKept bounds the signals that wait for Await.
const maxKept = 1024

// Keep has signals for which wanted says yes kept for Await while calls wait for
// their answers.
func (c *Conn) Keep(wanted func(*Message) bool) { c.keep = wanted }

// Call calls a method and returns the answer. An Error is the peer's.
func (c *Conn) Call(ctx context.Context, call Call) (*Message, error) {
	c.serial++
	serial := c.serial
	var reply *Message
	err := c.until(ctx, func() error {
		if _, err := c.file.Write(encodeCall(serial, call)); err != nil {
			return err
		}
		for {
			m, err := readMessage(c.in)
			if err != nil {
				return err
			}
			if (m.kind == typeReply || m.kind == typeError) && m.replySerial == serial {
				reply = m
				return nil
			}
			if err := c.keepSignal(m); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("D-Bus call %s: %w", call.Member, err)
	}
	if reply.kind == typeError {
		return nil, &Error{Name: reply.errorName, Text: reply.Text(0)}
	}
	return reply, nil
}

func (c *Conn) keepSignal(m *Message) error {
	if c.keep == nil || m.kind != typeSignal || !c.keep(m) {
		return nil
	}
	if len(c.kept) >= maxKept {
		return fmt.Errorf("more than %d signals before the answer", maxKept)
	}
	c.kept = append(c.kept, m)
	return nil
}

// Await returns the first kept or coming signal for which fits says yes.
func (c *Conn) Await(ctx context.Context, fits func(*Message) bool) (*Message, error) {
	for i, m := range c.kept {
		if fits(m) {
			c.kept = append(c.kept[:i:i], c.kept[i+1:]...)
			return m, nil
		}
	}
	var found *Message
	err := c.until(ctx, func() error {
		for {
			m, err := readMessage(c.in)
			if err != nil {
				return err
			}
			if m.kind == typeSignal && fits(m) {
				found = m
				return nil
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("D-Bus: wait for a signal: %w", err)
	}
	return found, nil
}
