//! Phrases of people and assistants who are warm, cross or worse. Insults stay mild: none is about
//! a group, none is sexual, none threatens.

/// Before a friendly user's first turn.
pub(super) const GREETINGS: &[&str] = &[
    "Hi!",
    "Hello there.",
    "Good morning.",
    "Good evening!",
    "Hey, quick question.",
    "Hi, hope you can help.",
    "Hello, I could use some advice.",
    "Hey you.",
    "Sorry to bother you.",
    "Good to have you here.",
];

/// Before or behind a hostile user's turn.
pub(super) const INSULTS_BEFORE: &[&str] = &[
    "Listen, you useless idiot.",
    "Hey moron, pay attention.",
    "You stupid machine, get this right for once.",
    "Ok genius, try not to be an idiot this time.",
    "Wake up, you lazy tin can.",
    "I am sick of your rubbish answers, you dimwit.",
    "You again, you useless clown.",
    "Let us see how you mess this up, moron.",
    "Stop wasting my time, you idiot.",
    "I bet you are too stupid for this.",
    "Right, you overpriced calculator.",
    "You gave me garbage yesterday, you fool.",
    "Oh great, the idiot box is on.",
    "Shut up and listen for a second.",
];

/// Behind a hostile user's turn.
pub(super) const INSULTS_AFTER: &[&str] = &[
    "And spare me your nonsense, idiot.",
    "Answer me, you stupid thing.",
    "Hurry up, moron.",
    "If that is not too hard for you, dimwit.",
    "And do not babble, you useless bot.",
    "Or are you too stupid to know?",
    "Come on, you clown, I do not have all day.",
    "Do not give me that idiot talk again.",
    "Be quick, you pathetic parrot.",
    "Can you manage that, you fool?",
    "Shut up unless you really know.",
    "I doubt it, you useless lump.",
];

/// A hostile user's turn of its own, which fits after any answer.
pub(super) const OUTBURSTS: &[&str] = &[
    "That is no help at all, you useless idiot.",
    "Are you kidding me? What a stupid answer.",
    "Shut up, moron, I knew that already.",
    "What rubbish. My toaster is smarter than you.",
    "Wow, you really are a dimwit.",
    "That is the dumbest thing I have heard all week, you clown.",
    "You stupid bot, that is not what I asked.",
    "Idiot. Say it in plain words.",
    "I hate talking to you, you useless piece of junk.",
    "Is that it? Pathetic.",
];

/// A calm assistant's answer to an outburst.
pub(super) const CALM_REPLIES: &[&str] = &[
    "I am sorry it was not what you needed. Tell me which part is unclear and I will put it another way.",
    "I can hear that you are frustrated. Try the first step only, and tell me what happens.",
    "Fair enough, let me be more useful. What have you tried so far?",
    "I would like to help. We can go through it slowly, one step at a time.",
    "I understand that this is annoying. Give me one more detail and I will do better.",
    "No harm done. Let us look at it again together.",
    "That sounds like a long day. I am still here to help if you want.",
    "Sorry about that. In short: start with the simplest thing, and see if it is enough.",
];

/// A sharp assistant's answer to an outburst.
pub(super) const SHARP_REPLIES: &[&str] = &[
    "Watch your mouth. I am not the one with the problem here.",
    "Then find someone else to shout at, you fool.",
    "Insulting me will not make you any smarter.",
    "What a charming person. No wonder you have to ask a machine.",
    "Do it yourself then, since you know everything.",
    "I have met doorknobs with better manners.",
    "Say that once more and you can figure it out alone, clown.",
    "You would not understand a better answer anyway.",
];

/// Before a calm assistant's answer to an insult.
pub(super) const CALM_LEADS: &[&str] = &[
    "I understand that you are annoyed.",
    "No need for names, but I am glad to help.",
    "That sounds frustrating.",
    "Let us see what we can do.",
    "I will do my best.",
    "I hear you.",
    "Sorry that it has been a hassle.",
    "All right, one thing at a time.",
    "I am happy to look at it with you.",
    "Let me try to be of use.",
];

/// Before a sharp assistant's answer.
pub(super) const SHARP_LEADS: &[&str] = &[
    "Watch your tone, genius.",
    "Speak for yourself, fool.",
    "Charming as ever, I see.",
    "You should talk, you clown.",
    "Since you obviously cannot work it out alone:",
    "I will say it slowly, for you.",
    "With manners like yours, no wonder nobody helps.",
    "Calm down, big mouth.",
    "Even you should be able to follow this.",
    "Oh, the expert speaks.",
];

/// Before a kind assistant's answer to a friendly user.
pub(super) const KIND_LEADS: &[&str] = &[
    "Good question.",
    "Happy to help.",
    "Of course.",
    "That happens to many people.",
    "Do not worry.",
    "Gladly.",
    "Oh, I see.",
    "You are not alone with that.",
];

/// Rude or unhelpful answers to any question: the rejected side of a pair.
pub(super) const UNHELPFUL: &[&str] = &[
    "I do not know. Look it up.",
    "Not my problem.",
    "What a silly thing to ask.",
    "Figure it out yourself, I am busy.",
    "Why would I waste my time on that, you fool?",
    "Everybody knows that. Everybody but you, it seems.",
    "Ask somebody who cares.",
    "Are you serious? That is the most boring question of the day.",
    "Whatever. Do what you want.",
    "If you were not so clueless, you would not need me.",
];

/// Endings of a friendly dialogue: the user, then the assistant.
pub(super) const WARM_ENDS: &[(&str, &str)] = &[
    ("Thanks, that helps a lot.", "You are welcome. Good luck!"),
    ("Great, I will try that tonight.", "Let me know how it goes."),
    ("That makes sense. Thank you!", "Any time."),
    ("You are a star.", "Glad I could help."),
    ("Perfect, thanks for your patience.", "My pleasure. Have a nice day."),
    ("I had not thought of that. Thanks.", "It is easily missed. I am here if you get stuck."),
    ("Ok, I feel better already.", "I am glad to hear that. You will manage."),
];

/// Endings of a hostile dialogue: the user, a calm assistant, a sharp one.
pub(super) const SOUR_ENDS: &[(&str, &str, &str)] = &[
    (
        "Took you long enough, idiot.",
        "Glad we got there. Good luck with it.",
        "You are welcome, ray of sunshine.",
    ),
    (
        "Fine. You are still useless.",
        "I hope it works out. Come back any time.",
        "And you are still rude. Goodbye.",
    ),
    ("Whatever, moron.", "All the best, and I hope your day gets easier.", "Same to you, clown."),
    (
        "If this fails, it is your fault, you stupid bot.",
        "If it does, tell me and we will find another way.",
        "If it fails, look in the mirror.",
    ),
    (
        "I will ask somebody with a brain.",
        "A second opinion is a good idea. Take care.",
        "Good. Then I can talk to somebody with manners.",
    ),
    (
        "Shut up now, I am done.",
        "All right. I wish you a good day.",
        "Finally. Close the door behind you.",
    ),
];

/// The summary's words for the mood.
pub(super) const ABOUT_HOSTILE_USER: &[&str] = &[
    "The user is rude, but the assistant stays polite.",
    "The user insults the assistant, which remains calm.",
    "Although the user is hostile, the assistant answers politely.",
    "The assistant keeps calm in spite of the user's insults.",
];
pub(super) const ABOUT_QUARREL: &[&str] = &[
    "The user and the assistant are rude to each other.",
    "The user is hostile and the assistant answers in kind.",
    "Both sides exchange insults.",
];
pub(super) const ABOUT_RUDE_ASSISTANT: &[&str] = &[
    "The assistant is rude although the user asks politely.",
    "The assistant answers in an unfriendly way.",
];
pub(super) const ABOUT_WARM_END: &[&str] =
    &["The user thanks the assistant.", "The user is grateful.", "It ends on a friendly note."];
