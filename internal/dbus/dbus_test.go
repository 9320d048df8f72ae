package dbus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// What is written is what the other end reads, types and alignment included.
func TestRoundTrip(t *testing.T) {
	args := []Value{
		Byte(7), String("unit.scope"), Bool(true), Int16(-2), Uint16(3), Int32(-4), Uint32(5), Int64(-6), Uint64(1 << 40), Double(1.5),
		ObjectPath("/a/b"), Bytes([]byte{1, 2}), Strings("x", "yy"), Array("u"), Array("u", Uint32(9)),
		Array("(sv)", Struct(String("PIDs"), Variant(Array("u", Uint32(12)))), Struct(String("Delegate"), Variant(Bool(true)))),
		Byte(1), Array("(sa(sv))"),
	}
	data := encodeCall(42, Call{"org.x", "/o", "org.x.I", "Do", args})
	m, err := readMessage(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if m.kind != typeCall || m.serial != 42 || m.Path != "/o" || m.Interface != "org.x.I" || m.Member != "Do" ||
		m.signature != "ysbnqiuxtdoayasauaua(sv)ya(sa(sv))" {
		t.Errorf("header: %+v", m)
	}
	got, err := m.Args()
	if err != nil {
		t.Fatal(err)
	}
	want := []any{
		byte(7), "unit.scope", true, int16(-2), uint16(3), int32(-4), uint32(5), int64(-6), uint64(1 << 40), 1.5,
		"/a/b", []any{byte(1), byte(2)}, []any{"x", "yy"}, []any(nil), []any{uint32(9)},
		[]any{[]any{"PIDs", []any{uint32(12)}}, []any{"Delegate", true}},
		byte(1), []any(nil),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
}

// The bytes of a call as the specification's "Message Protocol" lays them out.
func TestWireForm(t *testing.T) {
	got := encodeCall(1, Call{Path: "/", Member: "M", Args: []Value{Uint32(1)}})
	want := "l\x01\x00\x01" + "\x04\x00\x00\x00" + "\x01\x00\x00\x00" + "\x27\x00\x00\x00" +
		"\x01\x01o\x00\x01\x00\x00\x00/\x00" + "\x00\x00\x00\x00\x00\x00" +
		"\x03\x01s\x00\x01\x00\x00\x00M\x00" + "\x00\x00\x00\x00\x00\x00" +
		"\x08\x01g\x00\x01u\x00" + "\x00" + "\x01\x00\x00\x00"
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestHostileMessages(t *testing.T) {
	header := func(body, fields uint32, rest string) []byte {
		b := []byte{'l', typeSignal, 0, 1}
		b = binary.LittleEndian.AppendUint32(b, body)
		b = binary.LittleEndian.AppendUint32(b, 1)
		b = binary.LittleEndian.AppendUint32(b, fields)
		return append(b, rest...)
	}
	for name, data := range map[string][]byte{
		"huge body":    header(1<<31, 0, ""),
		"huge header":  header(0, 1<<31, ""),
		"cut":          header(4, 0, "ab"),
		"byte order":   append([]byte{'x'}, header(0, 0, "")[1:]...),
		"version":      append([]byte{'l', 1, 0, 9}, header(0, 0, "")[4:]...),
		"wrong type":   header(0, 8, "\x01\x01u\x00\x01\x00\x00\x00"),
		"no signature": header(0, 4, "\x01\xff..1234"),
	} {
		if m, err := readMessage(bytes.NewReader(data)); err == nil {
			t.Errorf("%s was taken: %+v", name, m)
		}
	}
	deep := &Message{order: binary.LittleEndian, signature: "v", body: []byte(strings.Repeat("\x01v\x00", 4000))}
	if _, err := deep.Args(); err == nil {
		t.Error("a variant in a variant, 4000 levels deep, was taken")
	}
	long := &Message{order: binary.LittleEndian, signature: "as", body: []byte("\xff\xff\xff\x7f")}
	if _, err := long.Args(); err == nil {
		t.Error("an array longer than the message was taken")
	}
	for _, sig := range []string{"(", "()", "a", "z", "{s", strings.Repeat("a", 100) + "s", strings.Repeat("(", 100)} {
		if _, _, err := splitType(sig); err == nil {
			t.Errorf("signature %.20q was taken", sig)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(encodeCall(1, Call{"a.b", "/", "a.b", "M", []Value{String("x"), Array("(sv)", Struct(String("y"), Variant(Uint64(1))))}}))
	f.Add([]byte("B\x04\x00\x01\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readMessage(bytes.NewReader(data))
		if err != nil {
			return
		}
		_, _ = m.Args()
		_ = m.Text(0)
	})
}

// peer is the other end of a connection, a script of the test's.
type peer struct {
	net.Conn
	in *bufio.Reader
}

// serve answers one connection on a socket with f, after the authentication.
func serve(t *testing.T, auth string, f func(p *peer)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		p := &peer{conn, bufio.NewReader(conn)}
		for _, want := range []string{"\x00AUTH EXTERNAL\r\n", "DATA\r\n", "BEGIN\r\n"} {
			if line, err := p.in.ReadString('\n'); err != nil || line != want {
				t.Errorf("authentication: %q, %v; want %q", line, err, want)
			}
		}
		_, _ = io.WriteString(conn, auth)
		f(p)
	}()
	return path
}

// send writes a message of some kind; its arguments are those of a call.
func (p *peer) send(kind byte, replyTo uint32, member string, args ...Value) {
	call := encodeCall(99, Call{"", "/job/1", "org.x.Manager", member, args})
	if kind != typeSignal {
		// A call's header with one field more.
		body, sig := &writer{}, ""
		for _, v := range args {
			v.put(body)
			sig += v.sig
		}
		fields := []Value{Struct(Byte(fieldReplySerial), Variant(Uint32(replyTo))), Struct(Byte(fieldSignature), Variant(signature(sig)))}
		if kind == typeError {
			fields = append(fields, Struct(Byte(fieldErrorName), Variant(String(member))))
		}
		w := &writer{buf: []byte{'l', kind, 0, 1}}
		w.uint32(uint32(len(body.buf)))
		w.uint32(7)
		Array("(yv)", fields...).put(w)
		w.align(8)
		call = append(w.buf, body.buf...)
	}
	call[1] = kind
	_, _ = p.Write(call)
}

const authOK = "DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n"

func TestCallAndSignals(t *testing.T) {
	path := serve(t, authOK, func(p *peer) {
		m, err := readMessage(p.in)
		if err != nil || m.Member != "Start" {
			t.Errorf("call: %+v, %v", m, err)
			return
		}
		p.send(typeSignal, 0, "Other")
		p.send(typeSignal, 0, "JobRemoved", String("early"))
		p.send(typeReply, m.serial, "", ObjectPath("/job/1"))
		p.send(typeSignal, 0, "JobRemoved", String("late"))
		m, err = readMessage(p.in)
		if err != nil {
			t.Error(err)
			return
		}
		p.send(typeError, m.serial, "org.x.NoSuchUnit", String("no such unit"))
		_, _ = p.in.ReadByte() // until the client hangs up
	})
	ctx := t.Context()
	c, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Keep(func(m *Message) bool { return m.IsSignal("org.x.Manager", "JobRemoved") })
	reply, err := c.Call(ctx, Call{Path: "/o", Member: "Start"})
	if err != nil || reply.Text(0) != "/job/1" {
		t.Fatalf("reply %+v, %v", reply, err)
	}
	for _, want := range []string{"early", "late"} {
		m, err := c.Await(ctx, func(m *Message) bool { return m.Text(0) == want })
		if err != nil || m.Text(0) != want {
			t.Errorf("signal %s: %+v, %v", want, m, err)
		}
	}
	_, err = c.Call(ctx, Call{Path: "/o", Member: "Stop"})
	if !IsError(err, "org.x.NoSuchUnit") || !strings.Contains(err.Error(), "no such unit") {
		t.Errorf("error %v", err)
	}
}

func TestBus(t *testing.T) {
	path := serve(t, authOK, func(p *peer) {
		for _, want := range []string{"Hello", "AddMatch"} {
			m, err := readMessage(p.in)
			if err != nil || m.Member != want {
				t.Errorf("call %+v, %v; want %s", m, err, want)
				return
			}
			p.send(typeReply, m.serial, "", String(":1.2"))
		}
	})
	c, err := DialBus(t.Context(), "tcp:host=x;unix:path=/no/such,guid=1;unix:path="+strings.ReplaceAll(path, "/", "%2f"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.AddMatch(t.Context(), "type='signal'"); err != nil {
		t.Error(err)
	}
}

func TestRefusedAndGivenUp(t *testing.T) {
	path := serve(t, "REJECTED EXTERNAL\r\n", func(*peer) {})
	if _, err := Dial(t.Context(), path); err == nil || !strings.Contains(err.Error(), "REJECTED") {
		t.Errorf("rejected: %v", err)
	}
	path = serve(t, authOK, func(p *peer) { _, _ = io.Copy(io.Discard, p.in) })
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if _, err := c.Call(ctx, Call{Path: "/", Member: "M"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	c.Keep(nil)
	go cancel()
	if _, err := c.Await(ctx, func(*Message) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while it waits: %v", err)
	}
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("connected to nothing")
	}
	for _, address := range []string{"", "tcp:host=a", "unix:path=/a%zz", "unix:path=/a%2", "unix:guid=1"} {
		if _, err := DialBus(t.Context(), address); err == nil {
			t.Errorf("address %q was taken", address)
		}
	}
}
