package wire

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"time"
)

// Client makes calls over one connection, one at a time. It is what the monitor
// publishes events with, so one goroutine owns it.
type Client struct {
	conn   net.Conn
	r      *bufio.Reader
	stream uint32
}

// NewClient takes over conn.
func NewClient(conn net.Conn) *Client {
	return &Client{conn: conn, r: bufio.NewReaderSize(conn, 512), stream: 1}
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Call calls a method and waits for its answer, until ctx's deadline. After an
// error that is not an *Error the client is of no more use. Metadata of a call
// are key, value, key, value, ….
func (c *Client) Call(ctx context.Context, service, method string, req, answer any, metadata ...string) error {
	r, err := newRequest(service, method, req, metadata)
	if err != nil {
		return err
	}
	deadline, ok := ctx.Deadline()
	if ok {
		r.TimeoutNano = int64(time.Until(deadline))
	}
	if err := c.conn.SetDeadline(deadline); err != nil { // zero: none
		return fmt.Errorf("ttrpc: call %s: %w", method, err)
	}
	stream := c.stream
	c.stream += 2 // a client's streams are odd
	out, err := frame(stream, kindRequest, r)
	if err != nil {
		return err
	}
	if _, err := c.conn.Write(out); err != nil {
		return fmt.Errorf("ttrpc: call %s: %w", method, err)
	}
	for {
		h, data, err := readFrame(c.r)
		if err != nil {
			return fmt.Errorf("ttrpc: call %s: %w", method, err)
		}
		if h.stream != stream || h.kind != kindResponse {
			continue // the late answer of a call that was given up
		}
		return decodeResponse(method, data, answer)
	}
}
