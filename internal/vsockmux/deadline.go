package vsockmux

import (
	"sync"
	"time"
)

// deadline is a moment that can be moved. Its zero value never comes.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	come  chan struct{} // nil while there is no moment
}

// set moves it; the zero time takes it away.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.come = nil
	if t.IsZero() {
		return
	}
	come := make(chan struct{})
	d.come = come
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(come) })
	} else {
		close(come)
	}
}

// passed is closed when the moment has come.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.come
}

func (d *deadline) over() bool {
	select {
	case <-d.passed():
		return true
	default:
		return false
	}
}
