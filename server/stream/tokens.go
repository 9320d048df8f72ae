package stream

import (
	"crypto/rand"
	"encoding/base64"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// tokenLife is how long a URL waits to be used.
	tokenLife = time.Minute
	// maxTokens bounds those that wait.
	maxTokens = 1000
)

// tokens are the requests that wait for their URL to be used, each once.
type tokens struct {
	now func() time.Time

	mu   sync.Mutex
	all  map[string]waiting
	line []string // oldest first; some may be used already
}

type waiting struct {
	request any
	until   time.Time
}

func newTokens() *tokens { return &tokens{now: time.Now, all: map[string]waiting{}} }

// put keeps a request for take. That the table is full is ResourceExhausted.
func (t *tokens) put(request any) (token string, err error) {
	var random [18]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	token = base64.RawURLEncoding.EncodeToString(random[:])

	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for len(t.line) > 0 {
		w, there := t.all[t.line[0]]
		if there && now.Before(w.until) {
			break
		}
		delete(t.all, t.line[0])
		t.line = t.line[1:]
	}
	if len(t.line) >= maxTokens {
		return "", status.Errorf(codes.ResourceExhausted, "%d streaming URLs wait to be used already: try again in a minute", maxTokens)
	}
	t.all[token] = waiting{request, now.Add(tokenLife)}
	t.line = append(t.line, token)
	return token, nil
}

// take returns the request of a token, which is nobody's afterwards; nil if it has
// none.
func (t *tokens) take(token string) any {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, there := t.all[token]
	delete(t.all, token)
	if !there || !t.now().Before(w.until) {
		return nil
	}
	return w.request
}
