// Client is an example for an image: it asks a web server again and again and
// prints what it says.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	url, every := "http://localhost:8080/", 100*time.Millisecond
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	tick := time.NewTicker(every)
	for n := 1; ; n++ {
		answer, err := get(ctx, url)
		if err != nil {
			fmt.Fprintf(os.Stderr, "request %d: %v\n", n, err)
		} else {
			fmt.Printf("request %d: %s\n", n, answer)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	return strings.TrimSpace(string(body)), err
}
