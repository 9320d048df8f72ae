package pod

import (
	"context"
	"testing"
	"testing/synctest"
)

// TestAbandoned: a verb that ends before its caller has come to wait for it is not one
// that everybody has given up.
func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		var abandoned bool
		begin := func() *work {
			return newTracker().start(t.Context(), "verb", "thing", 0, func(_ context.Context, w *work) error {
				<-goOn
				abandoned = w.abandoned()
				return nil
			}, func(*work, error) {})
		}
		w := begin()
		goOn <- struct{}{}
		<-w.done
		if abandoned {
			t.Error("abandoned before anybody came")
		}
		if err := w.wait(t.Context()); err != nil {
			t.Error(err)
		}

		w = begin()
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.wait(impatient); err == nil {
			t.Error("waited although its time was over")
		}
		goOn <- struct{}{}
		<-w.done
		if !abandoned {
			t.Error("not abandoned, although nobody waits any more")
		}
	})
}
