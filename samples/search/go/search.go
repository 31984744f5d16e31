// search: the same worker in Go, with the standard library's HTTP server: a goroutine for each connection.
//
//	search PORT or search /PATH   listens on a port of this machine, or on a Unix socket
//	search                        takes PORT, or with LISTEN_FDS=1 the listening socket that it inherits as descriptor 3
//	GET /health                   200 as soon as it listens
//	GET /anything?q=tcp           {"query": "tcp", "results": ["..."], "pid": 4121, "language": "go"}
//
// A goroutine looks like a thread and costs some kilobytes: code that waits reads from top to bottom, while the runtime
// waits in epoll for all of them at once and runs those that can go on, on every core. After SIGTERM it answers what it
// has begun and exits with 0.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const maxResults = 5

// answer is what the interface promises, in this order; the tags name the fields in JSON.
type answer struct {
	Query    string   `json:"query"`
	Results  []string `json:"results"`
	PID      int      `json:"pid"`
	Language string   `json:"language"`
}

// loadFacts reads the facts that lie beside this source file: lines of JSON strings, each with a comma.
func loadFacts() ([]string, error) {
	_, source, _, _ := runtime.Caller(0) // the path that the compiler saw
	text, err := os.ReadFile(filepath.Join(filepath.Dir(source), "..", "facts.inc"))
	if err != nil {
		return nil, err
	}
	var facts []string
	list := strings.TrimSuffix(strings.TrimSpace(string(text)), ",")
	return facts, json.Unmarshal([]byte("["+list+"]"), &facts)
}

// matches tells whether a fact has all words, whatever their case.
func matches(fact string, words []string) bool {
	fact = strings.ToLower(fact)
	for _, word := range words {
		if !strings.Contains(fact, word) {
			return false
		}
	}
	return len(words) > 0
}

// search finds the first facts that match; an empty slice, not a nil one, is [] in JSON.
func search(facts []string, query string) []string {
	words := strings.Fields(strings.ToLower(query))
	found := []string{}
	for _, fact := range facts {
		if len(found) < maxResults && matches(fact, words) {
			found = append(found, fact)
		}
	}
	return found
}

// reply sends a document. Its length is known, so nothing has to be chunked; of a HEAD the server leaves the body out.
func reply(w http.ResponseWriter, status int, document any) {
	body, err := json.Marshal(document)
	if err != nil {
		panic(err) // nothing that is answered here can fail to be written as JSON
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	w.Write(append(body, '\n')) // an error means that the client has gone: nobody is left to tell
}

func handler(facts []string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"status": "ok", "pid": os.Getpid()})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			reply(w, http.StatusMethodNotAllowed, map[string]string{"error": "expected GET or HEAD"})
			return
		}
		query := r.URL.Query().Get("q")
		reply(w, http.StatusOK, answer{query, search(facts, query), os.Getpid(), "go"})
	})
	return mux
}

// listen gives the listening socket: inherited, as sd_listen_fds(3) describes it, or a new one at a path or a port.
func listen(args []string) (net.Listener, error) {
	place := os.Getenv("PORT")
	if len(args) > 0 {
		place = args[0]
	} else if os.Getenv("LISTEN_FDS") == "1" && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		inherited := os.NewFile(3, "inherited")
		defer inherited.Close() // the listener has a descriptor of its own
		return net.FileListener(inherited)
	}
	if strings.HasPrefix(place, "/") {
		return net.Listen("unix", place)
	}
	if port, err := strconv.ParseUint(place, 10, 16); err != nil || port == 0 {
		return nil, errors.New("found port '" + place + "', expected 1 to 65535")
	}
	return net.Listen("tcp", net.JoinHostPort("127.0.0.1", place))
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("search: ")
	facts, err := loadFacts()
	if err != nil {
		log.Fatal(err)
	}
	// The signals first: a worker that can be reached can be ended in order.
	asked, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	listener, err := listen(os.Args[1:])
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("pid %d listens on %s", os.Getpid(), listener.Addr())
	server := &http.Server{Handler: handler(facts), ReadHeaderTimeout: time.Minute}
	ended := make(chan error)
	go func() {
		<-asked.Done()
		ended <- server.Shutdown(context.Background()) // listen no more, answer what has begun, close who is idle
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	if err := <-ended; err != nil { // Serve returns at once: main would end the answers that are still under way
		log.Fatal(err)
	}
}
