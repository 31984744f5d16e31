<?php
// DokuWiki's own way to have configuration and pages elsewhere: whoever defines DOKU_CONF first is believed
// (inc/init.php). PHP runs this before each of its scripts (auto_prepend_file), so that not a byte of it is changed.
define('DOKU_CONF', getenv('WIKI_CONF') . '/');
