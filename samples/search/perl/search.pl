#!/usr/bin/env perl
# search: the same worker in Perl, with the modules that come with it: one process, one loop around select.
#
#     perl search.pl PORT, or perl search.pl /PATH   listens on a port of this machine, or on a Unix socket
#     perl search.pl                                 finds PORT or SOCKET in its environment, or with LISTEN_FDS=1 a
#                                                    listening socket as descriptor 3; or is one CGI request (RFC 3875),
#                                                    the way in which Perl served the first dynamic pages
#     GET /health                                    200 as soon as it listens
#     GET /anything?q=tcp                            {"query": "tcp", "results": ["..."], "pid": 4121, ...}
#
# select tells which connections can go on; what came of a request is kept until it is complete.
# After SIGTERM it answers what has arrived and exits with 0.
use v5.28;
use warnings;
use Encode qw(decode);
use File::Basename qw(dirname);
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use JSON::PP;
use POSIX qw(strftime);
use Socket qw(SHUT_WR);

use constant {RESULTS => 5, HEAD => 8192, OUT => 65_536};

my $json = JSON::PP->new->utf8->allow_nonref;
my @facts = do {
    open my $file, '<', dirname(__FILE__) . '/../facts.inc' or die "search: cannot read the facts: $!\n";
    map {/^"(.*)",$/} <$file>;
};

# A JSON object with its keys in this order, which a hash would lose.
sub object {
    my @pairs;
    while (my ($key, $value) = splice @_, 0, 2) { push @pairs, "\"$key\": " . $json->encode($value) }
    return '{' . join(', ', @pairs) . "}\n";
}

# Every fact that has all words of the first parameter `q`, as the interface promises it.
sub search {
    my ($query_string) = @_;
    my ($query) = $query_string =~ /(?:^|&)q=([^&]*)/;
    ($query //= '') =~ tr/+/ /;
    $query =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ge;
    $query = decode('UTF-8', $query);    # what is no UTF-8 becomes U+FFFD
    my @words = split ' ', lc $query;
    my @found = grep { my $fact = lc; @words && !grep { index($fact, $_) < 0 } @words } @facts;
    $#found = RESULTS - 1 if @found > RESULTS;
    return object(query => $query, results => \@found, pid => $$, language => 'perl');
}

# Method and target of a head, and whether it is its connection's last. Doubtful framing is refused, by `die`: where two
# servers disagree about the end of a request, an attacker can hide a second one in the first (RFC 9112 section 11.2).
sub parse {
    my ($first, @lines) = split /\r\n/, $_[0], -1;
    my ($method, $target, $minor) = ($first // '') =~ m{\A([A-Z]+) ([!-~\x80-\xff]+) HTTP/1\.([0-9])\z}
        or die "400 Bad Request: expected a first line like: GET /path HTTP/1.1\n";
    die "405 Method Not Allowed: expected GET or HEAD\n" if $method !~ /\A(?:GET|HEAD)\z/;
    my ($hosts, $close) = (0, !$minor);
    for (@lines) {
        my ($name, $value) = /\A([!#\$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\z/
            or die "400 Bad Request: expected fields like Name: value, each ended by CR LF\n";
        $name = lc $name;
        die "411 Length Required: expected no chunked body\n" if $name eq 'transfer-encoding';
        die "400 Bad Request: expected no body\n" if $name eq 'content-length' && $value ne '0';
        $close = 1 if $name eq 'connection' && $value =~ /close/i;
        $hosts++ if $name eq 'host';
    }
    die "400 Bad Request: expected exactly one Host field\n" if $minor && $hosts != 1;
    return ($method, $target, $close);
}

# A whole response with the JSON document $body.
sub response {
    my ($status, $body, $close, $method) = @_;
    my @head = ("HTTP/1.1 $status", strftime('Date: %a, %d %b %Y %H:%M:%S GMT', gmtime));
    push @head, 'Content-Type: application/json', 'Content-Length: ' . length $body;
    push @head, 'Allow: GET, HEAD' if $status =~ /^4/;
    push @head, 'Connection: close' if $close;
    return join "\r\n", @head, '', $method eq 'HEAD' ? '' : $body;
}

my ($readers, $writers) = (IO::Select->new, IO::Select->new);
my %clients;    # by descriptor: what was read and not used yet (in), what was answered and not sent yet (out)
my ($asked, $stopping) = (0, 0);

# Answer the next request. False: it has still to come, or enough is unsent.
sub answer {
    my ($client) = @_;
    $client->{in} = '' if $client->{closing};
    my $end = index $client->{in}, "\r\n\r\n";
    return 0 if length $client->{out} > OUT || ($end < 0 && length $client->{in} < HEAD);
    my ($method, $target, $close) = eval {
        die '431 Request Header Fields Too Large: expected a head of at most ' . HEAD . " bytes\n"
            if $end < 0 || $end > HEAD;
        parse(substr $client->{in}, 0, $end);
    };
    if (!defined $target) {
        my ($status, $wrong) = $@ =~ /^(.*?): (.*)$/;
        $client->{out} .= response($status, object(error => $wrong), $client->{closing} = 1, '');
        return 1;
    }
    substr $client->{in}, 0, $end + 4, '';
    $client->{closing} = $close || $stopping;
    my $body = $target eq '/health' ? object(status => 'ok', pid => $$) : search($target =~ s/^[^?]*\??//r);
    $client->{out} .= response('200 OK', $body, $client->{closing}, $method);
    return 1;
}

# A connection can go on: read once, answer everything that is complete. False: it is over.
sub serve {
    my ($client) = @_;
    if ($client->{out} eq '') {    # who does not take his answers is not read
        my $count = sysread $client->{socket}, $client->{in}, 65_536, length $client->{in};
        return 0 if defined $count ? !$count : !$!{EAGAIN};
    }
    while (1) {                    # with room again, look again: complete requests may have waited for it
        1 while answer($client);
        last if $client->{out} eq '';
        my $count = syswrite $client->{socket}, $client->{out};
        return !!$!{EAGAIN} if !defined $count;
        substr $client->{out}, 0, $count, '';
    }
    shutdown $client->{socket}, SHUT_WR if $client->{closing};  # not close: unread input would destroy the answer
    return !($stopping && $client->{in} eq '');
}

# Let a connection go on, then wait for what it needs next.
sub go_on {
    my ($client) = @_;
    my $socket   = $client->{socket};
    my $lives    = serve($client);
    $_->remove($socket) for $readers, $writers;
    return ($client->{out} eq '' ? $readers : $writers)->add($socket) if $lives;
    delete $clients{fileno $socket};
    return close $socket;
}

# Take in one connection. False: none waits, or, on a shared socket, another worker was quicker.
sub admit {
    my ($listener) = @_;
    my $socket = $listener->accept or return 0;
    $socket->blocking(0);
    $readers->add($socket);
    $clients{fileno $socket} = {socket => $socket, in => '', out => '', closing => 0};
    return 1;
}

# Listen no more; answer what came, close who is silent. Who waits in the backlog of a socket of our own is taken in
# first; an inherited one stays open elsewhere: there the next worker takes them.
sub stop {
    my ($listener, $inherited) = @_;
    1 while !$inherited && admit($listener);
    $stopping = 1;
    $readers->remove($listener);
    close $listener;
    go_on($_) for values %clients;
    return;
}

# A new listening socket at a path or a port.
sub listen_at {
    my ($place) = @_;
    my %address = (LocalAddr => '127.0.0.1', LocalPort => $place, ReuseAddr => 1);
    if ($place !~ m{\A/} && ($place !~ /\A[0-9]{1,5}\z/ || $place < 1 || $place > 65_535)) {
        warn "search: found port '$place', expected 1 to 65535; usage: search.pl PORT\n";
        exit 2;
    }
    my $listener = $place =~ m{\A/}
        ? IO::Socket::UNIX->new(Local => $place, Listen => 511)
        : IO::Socket::INET->new(%address, Listen => 511);
    return $listener // die "search: cannot listen at $place: $!\n";
}

if ($ENV{GATEWAY_INTERFACE}) {
    print "Content-Type: application/json\r\n\r\n", search($ENV{QUERY_STRING} // '');
    exit;
}
my $place     = $ARGV[0] // $ENV{SOCKET} // $ENV{PORT} // '';
my $inherited = !@ARGV && ($ENV{LISTEN_PID} // '') eq $$;          # sd_listen_fds(3)
my $listener  = $inherited ? IO::Socket::INET->new_from_fd(3, '+<') : listen_at($place);
$listener->blocking(0);
$readers->add($listener);
$SIG{PIPE} = 'IGNORE';
$SIG{TERM} = $SIG{INT} = sub { $asked = 1 };
my $where = $inherited ? 'descriptor 3' : $place =~ m{\A/} ? $place : "127.0.0.1:$place";
warn "search: pid $$ listens at $where\n";

until ($stopping && !%clients) {
    # Perl runs a signal's handler between two steps of its own: one that came just before select is seen after 1 s.
    my ($readable, $writable) = IO::Select->select($readers, $writers, undef, 1);
    for my $socket (@{$readable // []}, @{$writable // []}) {
        if ($socket == $listener) { admit($listener) }
        else                      { go_on($clients{fileno $socket}) }
    }
    stop($listener, $inherited) if $asked && !$stopping;
}
unlink $place if !$inherited && $place =~ m{\A/};
