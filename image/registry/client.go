// Package registry is a client for the OCI distribution protocol: it resolves a
// name to a manifest and streams blobs, through mirrors, with authentication and
// resumption. It never writes a file and never trusts a byte: manifests are
// verified against their digest here, blobs by whoever consumes the stream.
//
// docs/adr/0007 says why this is not a library's. Sources:
// OCI distribution-spec 1.1, Docker's registry token specification, and for the
// configuration containerd's hosts.toml and Docker's certs.d.
package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Error classes. The error itself names the host, the path and the cause.
var (
	ErrNotFound        = errors.New("not found")
	ErrUnauthorized    = errors.New("unauthorized")
	ErrDigestMismatch  = errors.New("digest mismatch")
	ErrUnsupported     = errors.New("unsupported")
	ErrTooLarge        = errors.New("too large")
	ErrUnavailable     = errors.New("registry unavailable")
	ErrInvalidManifest = errors.New("invalid manifest")
)

const (
	maxRedirects    = 5
	maxErrorBody    = 8 << 10
	dialTimeout     = 10 * time.Second
	headerTimeout   = 30 * time.Second
	maxTries        = 4                // of a request that may succeed when repeated
	maxRetryAfter   = 30 * time.Second // what a registry may make us wait
	firstRetryDelay = 100 * time.Millisecond
)

// Config says how registries are reached. Its zero value needs no file.
type Config struct {
	// ConfigPath is a certs.d tree: <host>/hosts.toml, or Docker's *.crt,
	// *.cert and *.key. "" reads none. Several are separated by colons.
	ConfigPath string
	// RegistriesConf is containers' registries.conf, which with its drop-ins says
	// where a reference is asked for, before certs.d does. "" reads none; a file that
	// is not there says nothing.
	RegistriesConf string
	// UserAgent is sent with each request; "" is "strake".
	UserAgent string
	// StallTimeout ends a transfer that brings less than 16 KiB in this time;
	// 0 is 30 seconds.
	StallTimeout time.Duration
}

// files are Config's of this moment. They are read anew for each repository.
type files struct{ configPath, registriesConf string }

// Client talks to registries. It is safe for concurrent use and holds only
// connections.
type Client struct {
	config     Config // but for its files
	files      atomic.Pointer[files]
	transport  *http.Transport
	retryDelay time.Duration // before the second try; it doubles
}

// New makes a Client; it reads nothing yet.
func New(c Config) *Client {
	if c.UserAgent == "" {
		c.UserAgent = "strake"
	}
	if c.StallTimeout == 0 {
		c.StallTimeout = 30 * time.Second
	}
	client := &Client{config: c, transport: newTransport(nil), retryDelay: firstRetryDelay}
	client.Change(c.ConfigPath, c.RegistriesConf)
	return client
}

// Change makes another Config.ConfigPath and RegistriesConf count from the next
// Repository on.
func (c *Client) Change(configPath, registriesConf string) {
	c.files.Store(&files{configPath, registriesConf})
}

// Close drops idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

func newTransport(conf *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       conf,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true, // a blob's digest is over the bytes as stored
		ReadBufferSize:        64 << 10,
	}
}

// Repository is one repository as one caller sees it: with its credentials, its
// mirrors and the tokens it got. Close it after use.
type Repository struct {
	ref    Reference
	client *Client
	hosts  []*host

	pushMu sync.Mutex // held over the question who answers
	pushTo *host      // what target has found
}

// host is an endpoint with what was learnt of it.
type host struct {
	endpoint
	http     *http.Client
	auth     *authorizer
	ownsConn *http.Transport // not shared: to be closed with the repository
}

// Repository opens the repository of ref; auth may be nil.
func (c *Client) Repository(ref Reference, auth *Auth) (*Repository, error) {
	files := c.files.Load()
	conf, err := readRegistriesConf(files.registriesConf)
	if err != nil {
		return nil, err
	}
	eps, err := conf.endpoints(files.configPath, ref)
	if err == nil && eps == nil {
		eps, err = endpoints(files.configPath, ref.Domain)
	}
	if err != nil {
		return nil, err
	}
	r := &Repository{ref: ref, client: c}
	for _, ep := range eps {
		h := &host{endpoint: ep}
		transport := c.transport
		if ep.tls != nil {
			h.ownsConn = newTransport(ep.tls)
			transport = h.ownsConn
		}
		h.http = &http.Client{Transport: transport, CheckRedirect: h.checkRedirect}
		h.auth = &authorizer{host: h, credentials: auth.forEndpoint(ep, ref.Domain), userAgent: c.config.UserAgent}
		if h.auth.credentials == nil {
			h.auth.helpers = conf.Helpers
			h.auth.server = ep.base.Host
			if ep.upstream {
				h.auth.server = ref.Domain
			}
		}
		r.hosts = append(r.hosts, h)
	}
	return r, nil
}

// path is the repository's on a host.
func (r *Repository) path(h *host) string {
	if h.path != "" {
		return h.path
	}
	return r.ref.Path
}

// Close drops the connections that belong to this repository alone.
func (r *Repository) Close() {
	for _, h := range r.hosts {
		if h.ownsConn != nil {
			h.ownsConn.CloseIdleConnections()
		}
	}
}

// checkRedirect lets blobs come from storage elsewhere, without the registry's
// credentials or configured headers, and never over a weaker channel.
func (h *host) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	first := via[0].URL
	if first.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirect from https to %s refused", req.URL.Scheme)
	}
	if req.URL.Host != first.Host {
		if req.Method == http.MethodPost { // its body is a refresh token
			return fmt.Errorf("redirect of a token request to %s refused", req.URL.Host)
		}
		req.Header.Del("Authorization")
		for name := range h.header {
			req.Header.Del(name)
		}
	}
	return nil
}

// request sends one request for kind ("manifests" or "blobs") and returns an
// answer of class 2xx; the caller closes its body. It authenticates when asked
// to, and repeats what may succeed when repeated.
func (r *Repository) request(ctx context.Context, h *host, method, kind, id string, header http.Header) (*http.Response, error) {
	return r.do(ctx, h, method, r.url(h, kind, id), header, nil, nil)
}

// url is that of something in the repository on a host.
func (r *Repository) url(h *host, kind, id string) *url.URL {
	u := h.base
	u.Path += "/" + r.path(h) + "/" + kind + "/" + id
	if !h.upstream && !h.exact {
		u.RawQuery = url.Values{"ns": {r.ref.Domain}}.Encode()
	}
	return &u
}

// do is request for any address, with a body unless that is nil. Scopes are what
// a token must cover besides what the registry asks for.
func (r *Repository) do(ctx context.Context, h *host, method string, u *url.URL, header http.Header, body []byte, scopes []string) (*http.Response, error) {
	return r.exchange(ctx, h, method, u, header, body, scopes, maxTries)
}

func (r *Repository) exchange(ctx context.Context, h *host, method string, u *url.URL, header http.Header, body []byte, scopes []string, tries int) (*http.Response, error) {
	var last error
	authenticated := false
	for try := 0; try < tries; try++ {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		var content io.Reader
		if body != nil {
			content = bytes.NewReader(body)
		}
		req, err := http.NewRequestWithContext(ctx, method, u.String(), content)
		if err != nil {
			return nil, err
		}
		maps.Copy(req.Header, header)
		req.Header.Set("User-Agent", r.client.config.UserAgent)
		if u.Host == h.base.Host { // an upload may go on elsewhere, which sees nothing of ours
			for name, values := range h.header {
				if _, ok := req.Header[name]; !ok {
					req.Header[name] = values
				}
			}
			h.auth.sign(req)
		}
		resp, err := h.http.Do(req)
		if err != nil {
			last = transportError(err)
			if !repeatable(err) {
				return nil, last
			}
			if try+1 < tries && !wait(ctx, r.client.retryDelay<<try) {
				return nil, context.Cause(ctx)
			}
			continue
		}
		if resp.StatusCode/100 == 2 {
			return resp, nil
		}
		said := r.watch(resp)
		last = statusError(resp, said)
		said.stop()
		delay := retryAfter(resp, r.client.retryDelay<<try)
		challenges := resp.Header.Values("WWW-Authenticate")
		resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusUnauthorized:
			if authenticated {
				return nil, last // the answer to our best credentials
			}
			authenticated = true
			if err := h.auth.authenticate(ctx, challenges, r.path(h), scopes); err != nil {
				return nil, err
			}
			try-- // the challenge was no failure
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusRequestTimeout:
			if try+1 < tries && !wait(ctx, delay) {
				return nil, context.Cause(ctx)
			}
		default:
			return nil, last
		}
	}
	return nil, last
}

func transportError(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		// The address may carry a signed query of the blob's storage: not for logs.
		if u, e := url.Parse(ue.URL); e == nil {
			u.RawQuery, u.User = "", nil
			return fmt.Errorf("%w: %s %s: %w", ErrUnavailable, ue.Op, u, ue.Err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// repeatable reports whether a second attempt makes sense: not where nobody
// listens, no such name exists, or the certificate is wrong.
func repeatable(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	if errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	if errors.As(err, &certificate) || errors.As(err, &record) {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op)
}

// statusError explains an answer that is not a success; it reads the body, which ends in
// time.
func statusError(resp *http.Response, in io.Reader) error {
	class := error(nil)
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		class = ErrUnauthorized
	case http.StatusNotFound:
		class = ErrNotFound
	default:
		class = ErrUnavailable
	}
	u := *resp.Request.URL
	u.RawQuery, u.User = "", nil
	body, _ := io.ReadAll(io.LimitReader(in, maxErrorBody)) // an explanation is a courtesy
	if text := errorText(body); text != "" {
		return fmt.Errorf("%w: %s %s: %s: %s", class, resp.Request.Method, &u, resp.Status, text)
	}
	return fmt.Errorf("%w: %s %s: %s", class, resp.Request.Method, &u, resp.Status)
}

// retryAfter is how long the answer asks to wait, else otherwise.
func retryAfter(resp *http.Response, otherwise time.Duration) time.Duration {
	v := strings.TrimSpace(resp.Header.Get("Retry-After"))
	if seconds, err := strconv.Atoi(v); err == nil && seconds >= 0 {
		return min(time.Duration(min(seconds, 3600))*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, min(time.Until(t), maxRetryAfter))
	}
	return otherwise
}

// wait returns false if ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
