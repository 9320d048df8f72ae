package stream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// tunnelProtocol is SPDY inside of a websocket, as clients forward ports by.
const tunnelProtocol = "SPDY/3.1+" + portforward.ProtocolV1Name

// newest reports whether a client offers v5, the first protocol that can close
// stdin. The kubelet's library has none newer than v4.
func newest(r *http.Request) bool { return wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) }

// serveV5 is a session by v5.channel.k8s.io: each message begins with the number of
// its channel, and 255 and a number close that.
func (s *Server) serveV5(w http.ResponseWriter, r *http.Request, o remotecommand.Options, session func(ctx context.Context, to Streams) error) {
	kinds := make([]wsstream.ChannelType, remotecommand.StreamResize+1)
	for channel, use := range map[int]struct {
		wanted bool
		kind   wsstream.ChannelType
	}{
		remotecommand.StreamStdIn: {o.Stdin, wsstream.ReadChannel}, remotecommand.StreamStdOut: {o.Stdout, wsstream.WriteChannel},
		remotecommand.StreamStdErr: {o.Stderr, wsstream.WriteChannel}, remotecommand.StreamErr: {true, wsstream.WriteChannel},
		remotecommand.StreamResize: {true, wsstream.ReadChannel},
	} {
		if use.wanted {
			kinds[channel] = use.kind
		}
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{remotecommand.StreamProtocolV5Name: {Binary: true, Channels: kinds}})
	conn.SetIdleTimeout(idleTimeout)
	_, channels, err := conn.Open(w, r)
	if err != nil {
		return // the client has been told
	}
	defer func() { _ = conn.Close() }() // the client's to notice
	// So that the client knows that it is connected.
	if _, err := channels[remotecommand.StreamErr].Write(nil); err != nil {
		return
	}

	ctx, end := adapter{server: s.life}.session(r.Context())
	defer end()
	var to Streams
	if o.Stdin {
		to.Stdin = channels[remotecommand.StreamStdIn]
	}
	if o.Stdout {
		to.Stdout = channels[remotecommand.StreamStdOut]
	}
	if o.Stderr {
		to.Stderr = channels[remotecommand.StreamStdErr]
	}
	sizes := make(chan Size)
	to.Resize = sizes
	go func() {
		defer close(sizes)
		defer end() // also when the client has gone
		for d := json.NewDecoder(channels[remotecommand.StreamResize]); ; {
			var z Size
			if err := d.Decode(&z); err != nil {
				return
			}
			select {
			case sizes <- z:
			case <-ctx.Done():
				return
			}
		}
	}()
	if !o.TTY {
		to.Resize = nil
		go func() {
			for range sizes { // which have no meaning
			}
		}()
	}
	answer, err := json.Marshal(resultOf(session(ctx, to)))
	if err == nil {
		_, _ = channels[remotecommand.StreamErr].Write(answer) // the client may have gone
	}
}

// result is how a session ended: the part of Kubernetes' Status that protocols from
// v4 on have.
type result struct {
	Status  string         `json:"status"`
	Message string         `json:"message,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Details *resultDetails `json:"details,omitempty"`
	Code    int            `json:"code,omitempty"`
}

type resultDetails struct {
	Causes []resultCause `json:"causes"`
}

type resultCause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func resultOf(err error) result {
	var exit exitError
	switch {
	case err == nil:
		return result{Status: "Success"}
	case errors.As(err, &exit):
		return result{
			Status: "Failure", Reason: remotecommand.NonZeroExitCodeReason, Message: "command terminated with non-zero exit code: " + exit.Error(),
			Details: &resultDetails{[]resultCause{{remotecommand.ExitCodeCauseType, strconv.Itoa(int(exit))}}},
		}
	}
	return result{Status: "Failure", Reason: "InternalError", Message: err.Error(), Code: http.StatusInternalServerError}
}

// serveTunnel has a SPDY session inside of a websocket: what comes out of the one is
// the other's connection.
func (s *Server) serveTunnel(w http.ResponseWriter, r *http.Request, spdy http.Handler) {
	server := websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			if !slices.Contains(c.Protocol, tunnelProtocol) {
				return websocket.ErrBadWebSocketProtocol
			}
			c.Protocol = []string{tunnelProtocol}
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			ctx, end := adapter{server: s.life}.session(r.Context())
			defer end()
			defer context.AfterFunc(ctx, func() { _ = ws.Close() })()
			if err := tunnel(ws, spdy); err != nil && ctx.Err() == nil {
				s.log.Debug("port-forward by websocket", "error", err)
			}
		},
	}
	server.ServeHTTP(w, r)
}

// tunnel serves SPDY on what ws carries. The handler wants a request that asks for
// the upgrade, which in a tunnel has been granted already.
func tunnel(ws net.Conn, spdy http.Handler) error {
	inside, outside := net.Pipe()
	served := make(chan error, 1)
	go func() {
		h := http.Server{Handler: spdy, ReadHeaderTimeout: idleTimeout}
		served <- h.Serve(&oneConn{conn: inside, done: make(chan struct{})})
	}()
	_, err := io.WriteString(outside, "POST / HTTP/1.1\r\nHost: tunnel\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"+
		"X-Stream-Protocol-Version: "+portforward.ProtocolV1Name+"\r\n\r\n")
	reader := bufio.NewReader(outside)
	if err == nil {
		var response *http.Response
		if response, err = http.ReadResponse(reader, nil); err == nil {
			_ = response.Body.Close() // an upgrade's is empty
			if response.StatusCode != http.StatusSwitchingProtocols {
				err = fmt.Errorf("SPDY is answered with %s", response.Status)
			}
		}
	}
	if err != nil {
		return errors.Join(err, outside.Close())
	}
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(outside, ws) // its end is the session's
		_ = outside.Close()
		close(done)
	}()
	_, err = io.Copy(ws, reader)
	err = errors.Join(err, ws.Close())
	<-done
	if e := <-served; !errors.Is(e, net.ErrClosed) {
		err = errors.Join(err, e)
	}
	if errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) {
		return nil // the client has gone
	}
	return err
}

// oneConn is a listener with one connection, and closed when that is.
type oneConn struct {
	conn net.Conn
	done chan struct{}
	once sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return &lastConn{c, l}, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "tunnel", Net: "unix"} }

type lastConn struct {
	net.Conn
	listener *oneConn
}

func (c *lastConn) Close() error { return errors.Join(c.Conn.Close(), c.listener.Close()) }
