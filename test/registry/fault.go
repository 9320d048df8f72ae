package registry

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is one way of misbehaving, at requests whose path ends in Suffix. One of
// the other fields says how.
type Fault struct {
	Suffix string // of the path: a digest, a tag; "" is every request
	Times  int    // how often; 0 is always

	Status     int    // answer this status …
	RetryAfter string // … with this header
	Replace    []byte // send this body instead, as if it were right
	CutAfter   int    // close the connection after this many bytes of the body
	Endless    bool   // send zeros for ever, with no length
	Stall      bool   // send the headers and then nothing
	Drip       bool   // send the body a byte at a time, a hundred in a second
	Location   string // redirect there
	NoRange    bool   // ignore the Range header
	WrongRange bool   // answer a Range with another one's bytes
	Method     string // only requests of this method; "" is any
}

// Misbehave adds a fault.
func (r *Registry) Misbehave(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Times == 0 {
		f.Times = -1
	}
	r.faults = append(r.faults, &f)
}

// Behave removes all faults.
func (r *Registry) Behave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

// takeFault finds the fault for a request and counts it down; mu is held.
func (r *Registry) takeFault(req *http.Request) *Fault {
	i := slices.IndexFunc(r.faults, func(f *Fault) bool {
		return f.Times != 0 && strings.HasSuffix(req.URL.Path, f.Suffix) && (f.Method == "" || f.Method == req.Method)
	})
	if i < 0 {
		return nil
	}
	r.faults[i].Times--
	return r.faults[i]
}

// serve misbehaves; false means that c, perhaps changed, is to be sent.
func (f *Fault) serve(w http.ResponseWriter, req *http.Request, c *content) bool {
	switch {
	case f.Status != 0:
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		fail(w, f.Status, "FAULT", "as the test wants it")
		return true
	case f.Location != "":
		http.Redirect(w, req, f.Location, http.StatusTemporaryRedirect)
		return true
	case f.Replace != nil:
		c.body = f.Replace
	case f.NoRange:
		req.Header.Del("Range")
	case f.WrongRange && req.Header.Get("Range") != "":
		// Right headers, bytes from the beginning: only the digest can tell.
		start, _, _ := strings.Cut(strings.TrimPrefix(req.Header.Get("Range"), "bytes="), "-")
		from, err := strconv.Atoi(start)
		if err != nil || from > len(c.body) {
			return false
		}
		c.body = append(slices.Clone(c.body[:from]), c.body[:len(c.body)-from]...)
	case f.CutAfter > 0:
		f.cut(w, req, *c)
		return true
	case f.Drip:
		drip(w, req, *c)
		return true
	case f.Endless:
		zeros := make([]byte, 64<<10)
		for {
			if _, err := w.Write(zeros); err != nil {
				return true
			}
		}
	case f.Stall:
		w.Header().Set("Content-Length", strconv.Itoa(len(c.body)))
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush() // the client may have gone
		<-req.Context().Done()
		return true
	}
	return false
}

// cut sends a part of the rest that was asked for and closes the connection.
func (f *Fault) cut(w http.ResponseWriter, req *http.Request, c content) {
	rest := begin(w, req, c)
	_, _ = w.Write(rest[:min(f.CutAfter, len(rest))]) // it is to fail anyway
	control := http.NewResponseController(w)
	_ = control.Flush() // as above
	if conn, _, err := control.Hijack(); err == nil {
		_ = conn.Close()
	}
}

// drip sends the rest that was asked for until the client has had enough.
func drip(w http.ResponseWriter, req *http.Request, c content) {
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	for rest := begin(w, req, c); len(rest) > 0; rest = rest[1:] {
		_, err := w.Write(rest[:1])
		if err = errors.Join(err, http.NewResponseController(w).Flush()); err != nil {
			return
		}
		select {
		case <-ticks.C:
		case <-req.Context().Done():
			return
		}
	}
}

// begin sends the headers for the rest that was asked for, and gives that.
func begin(w http.ResponseWriter, req *http.Request, c content) (rest []byte) {
	from, status := 0, http.StatusOK
	if start, ok := strings.CutPrefix(req.Header.Get("Range"), "bytes="); ok {
		start, _, _ = strings.Cut(start, "-")
		if n, err := strconv.Atoi(start); err == nil && n <= len(c.body) {
			from, status = n, http.StatusPartialContent
			w.Header().Set("Content-Range", "bytes "+start+"-"+strconv.Itoa(len(c.body)-1)+"/"+strconv.Itoa(len(c.body)))
		}
	}
	rest = c.body[from:]
	w.Header().Set("Content-Type", c.mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
	w.WriteHeader(status)
	return rest
}
